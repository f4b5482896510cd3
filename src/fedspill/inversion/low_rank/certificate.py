"""Blind certificates: which examples the network itself confirms.

Zeros where the units are off, in every column, leave no other factors (SPEAR, section 4). What they cannot tell are
examples that fire the same units with proportional derivatives: these are one column, whose input is a mean of theirs.
So the rank must be the number of examples, or each column the derivative that the network gives for its input as one
example, not several. With two classes all derivatives at the head are proportional, so that the latter tells nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.inversion.analytic.candidates import in_range
from fedspill.inversion.analytic.certificate import Explanation, explanation, has_directions
from fedspill.inversion.gradients.losses import evidence
from fedspill.inversion.low_rank.columns import AGREES, Columns, Layer

TOLD = 1e-2
"""Relative error up to which a derivative is the one that the network gives."""
LIKELY = 0.5
"""The same where the rank leaves no doubt: noise may have switched a unit of a later layer."""
WHOLE = 1e-2
"""Relative distance of a column's weight in the mean from that of one example."""
HIDDEN = 1e-300
SHARP = 1e-3
"""Error by noise, over an input's own size, beyond which nothing is certified."""


@dataclass(frozen=True)
class Verdict:
    """What is said of one column.

    Attributes:
        certified: it is one example.
        label: the class that the network's derivative fits best, None where that cannot be asked.
    """

    certified: bool
    label: int | None


@dataclass(frozen=True)
class Verdicts:
    """What is said of all columns, and by what the update is a multiple of the mean gradient."""

    each: tuple[Verdict, ...]
    multiple: float = 1.0


def verdicts(at: Layer, columns: Columns, knowledge: ServerKnowledge, bias: str) -> Verdicts:
    """What the network says of every column.

    Args:
        at: the first layer.
        columns: as found.
        knowledge: the model as sent, n and labels where they are granted.
        bias: name of the layer's bias.
    """
    told, rank = explained(at, columns, knowledge, bias), at.factors.rank
    complete, whole = columns.complete(at.least), knowledge.num_examples == rank
    multiple = _multiple(told, knowledge.num_examples, whole)
    clear, directed = sharp(at, columns), has_directions(knowledge.model)
    each = list[Verdict]()
    for k in range(rank):
        known = told[k] if told else None
        if known is None or whole:
            single = whole and (known is None or known.residual < LIKELY)
        else:
            single = directed and _single(known, told, knowledge.num_examples)
        sound = complete and bool(clear[k]) and float(columns.agrees[k]) >= AGREES
        valid = in_range(knowledge.model.input, columns.inputs[k, :-1])
        each.append(Verdict(sound and valid and single, None if known is None else known.label))
    return Verdicts(tuple(each), multiple)


def _single(known: Explanation, told: Sequence[Explanation], count: int | None) -> bool:
    if known.residual > TOLD:
        return False
    share = 1 / count if count is not None else min(t.share for t in told)
    return share > 0 and abs(known.share / share - 1) < WHOLE


def _multiple(told: Sequence[Explanation], count: int | None, whole: bool) -> float:
    """The factor of the whole update, where each of n examples has a column of its own; else it is taken for 1."""
    if not told or count is None or not whole:
        return 1.0
    shares = sorted(t.share for t in told)
    return shares[len(shares) // 2] * count


def sharp(at: Layer, columns: Columns) -> Bool[Tensor, " r"]:
    """Inputs whose error by the noise of the gradient is small."""
    inverse = torch.linalg.pinv(columns.q)
    inputs = columns.inputs[:, :-1]
    size = inputs.norm(dim=1) / inputs.shape[1] ** 0.5
    return at.factors.noise * inverse.norm(dim=1) / columns.scale < SHARP * size


def explained(at: Layer, columns: Columns, knowledge: ServerKnowledge, bias: str) -> list[Explanation]:
    """How well the network's own derivative for each input, with its best label, is the column; [] if it cannot tell.

    It cannot in train mode, where one example's derivative depends on others, nor where targets are no classes.
    """
    labels = _labels(knowledge)
    if labels is None or knowledge.model.training or not bool(columns.inputs.isfinite().all()):
        return []
    f, model = at.factors, knowledge.model.to(at.outputs.device, torch.float64)
    shown = f.left.new_zeros(len(f.left), f.rank)
    seen = (f.left[f.rows] @ columns.q * columns.scale).masked_fill(columns.zeros, 0.0)
    # Where noise hides whether a unit is on, its row is neither silent nor the example's own.
    shown[f.rows] = seen.masked_fill(~columns.decided, HIDDEN)
    told = list[Explanation]()
    for k in range(f.rank):
        rows = (shown[:, k].abs() > HIDDEN).nonzero()[:, 0]
        z = columns.inputs[k, :-1].view(model.input.encoded_shape)
        told.append(explanation(model, bias, z, labels, shown[:, k], rows, None))
    return told


def _labels(knowledge: ServerKnowledge) -> Tensor | None:
    granted = knowledge.labels
    if granted is not None:
        classes = granted.ndim == 1 and not granted.is_floating_point()
        return granted.unique() if classes else None
    try:
        return torch.arange(evidence(knowledge.model).classes)
    except NotApplicable:
        return None
