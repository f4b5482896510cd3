"""A blind certificate: would the clients have sent this update, had they held these sentences?

A token that is wrong leaves a row unexplained that was read, and another without a gradient. So every row is compared
by itself: a quiet sentence's share of the whole update says nothing of its own rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, aggregate_update
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.subspace.growing import Check

ALIKE = 0.2
"""Relative error of a row's gradient up to which it is the one that was seen."""
NOISE = 5.0
"""Times the noise that the spectra show, up to which an update is met."""
STEPS = 3000.0
"""Units in the last place by which two machines' gradients differ."""
DEPENDENT = 1e-3
"""Singular value of rows over the largest, below which they count as dependent."""
FAR = 0.05
"""Relative error of the whole beyond which nothing is met."""


@dataclass(frozen=True)
class Verdict:
    """What the update says of sentences.

    Attributes:
        residual: relative error of the whole update that they give.
        factor: by which theirs must be multiplied to meet it.
        rows: for each sentence, the relative error of its worst row's gradient.
        met: the residual is no more than noise and rounding explain.
        left: observed mean gradients less theirs, of some tensors.
    """

    residual: float
    factor: float
    rows: Float[Tensor, " m"]
    met: bool
    left: Params

    def certain(self) -> Tensor:
        """(m,) sentences each of whose tokens the update confirms."""
        return (self.rows <= ALIKE) & self.met


def verdict(
    update: Update,
    knowledge: ServerKnowledge,
    checks: Sequence[Check],
    tokens: Int[Tensor, "m t"],
    labels: Int[Tensor, "m ..."],
    counts: Int[Tensor, " m"],
    kept: Iterable[str] = (),
) -> Verdict | None:
    """Replays the clients on these sentences; None where their protocol is not known, or the loss refuses the labels.

    Args:
        update: as observed, of one step.
        knowledge: of the server.
        checks: layers at which rows are compared, the first among them.
        tokens: different sentences.
        labels: theirs, as the loss takes them.
        counts: how often each is in the batch; at least 1.
        kept: names of which `Verdict.left` is wanted, besides the checks'.
    """
    z, targets = tokens.repeat_interleave(counts, 0), labels.repeat_interleave(counts, 0)
    sent = _sent(update, knowledge, z, targets)
    if sent is None:
        return None
    names = [n for n in update.values if n in sent.values]
    pairs = _Pairs(update, sent, knowledge)
    factor = pairs.factor(names)
    residual = pairs.residual(names, factor)
    needed = {*kept, *(w.name for check in checks for w in check.reader.weights)}.intersection(names)
    left = {n: pairs.left(n, factor) for n in needed}
    shown = {n: pairs.both(n)[1] for n in needed}
    errors = [_row_errors(knowledge, check, tokens, left, shown, factor) for check in checks]
    rounding = min(FAR, STEPS * torch.finfo(knowledge.model.like.dtype).eps)
    allowed = rounding + NOISE * max(check.space.noise_share for check in checks)
    return Verdict(residual, factor, torch.stack(errors).amax(0), factor > 0 and residual <= allowed, left)


@dataclass(frozen=True)
class _Pairs:
    """An observed update and a replayed one, as mean gradients in float64, a tensor at a time."""

    update: Update
    sent: Update
    knowledge: ServerKnowledge

    def both(self, name: str) -> tuple[Tensor, Tensor]:
        """Observed and shown."""
        observed, shown = (mean_gradient(u, self.knowledge, [name]).values[name] for u in (self.update, self.sent))
        return observed, shown

    def left(self, name: str, factor: float) -> Tensor:
        """What is not shown."""
        observed, shown = self.both(name)
        return observed - factor * shown

    def factor(self, names: Sequence[str]) -> float:
        """By which what is shown comes nearest; 0 if it points away."""
        along, size = 0.0, 1e-300
        for name in names:
            observed, shown = self.both(name)
            along, size = along + float((observed * shown).sum()), size + float(shown.square().sum())
        return max(0.0, along / size)

    def residual(self, names: Sequence[str], factor: float) -> float:
        """What is left, over what was observed."""
        left = sum(float(self.left(n, factor).square().sum()) for n in names)
        whole = sum(float(self.both(n)[0].square().sum()) for n in names)
        return (left / max(1e-300, whole)) ** 0.5


def _sent(update: Update, knowledge: ServerKnowledge, z: Tensor, labels: Tensor) -> Update | None:
    training = _protocol(update, knowledge)
    if training is None:
        return None
    try:
        return aggregate_update(knowledge.model.without_masks(), z, labels, training, knowledge.num_clients)
    except (IndexError, RuntimeError, ValueError):  # a loss that takes no -100, say
        return None


def _protocol(update: Update, knowledge: ServerKnowledge) -> LocalTraining | None:
    if update.kind is UpdateKind.GRADIENT:
        return knowledge.local_training if isinstance(knowledge.local_training, FedSGD) else FedSGD()
    return knowledge.local_training


def _row_errors(
    knowledge: ServerKnowledge, check: Check, tokens: Tensor, left: Params, shown: Params, factor: float
) -> Float[Tensor, " m"]:
    """Per sentence the worst relative error of what its rows add to a layer's gradient; rows without any are passed.

    Both gradients are solved, the same way, for what multiplies each row.
    """
    names = {w.name for w in check.reader.weights}
    if not names <= left.keys():
        return torch.full((len(tokens),), torch.inf, dtype=torch.float64, device=tokens.device)
    rows = check.reader.rows(knowledge.model.in_eval_mode(), tokens)
    same, place = torch.unique(rows.flatten(0, 1), dim=0, return_inverse=True)
    # Rows may depend on each other up to rounding, of which nothing must be made larger.
    inverse = torch.linalg.pinv(same, rtol=min(DEPENDENT, torch.finfo(knowledge.model.like.dtype).eps ** 0.5))
    error = (check.reader.gradient(left) @ inverse).norm(dim=0)
    size = factor * (check.reader.gradient(shown) @ inverse).norm(dim=0)
    quiet = size <= STEPS * torch.finfo(knowledge.model.like.dtype).eps * size.max()
    relative = torch.where(quiet, 0.0, error / size.clamp_min(1e-300))
    return relative[place].view(len(tokens), -1).amax(1)
