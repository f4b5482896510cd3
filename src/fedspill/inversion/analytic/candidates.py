"""Candidates for the inputs of a linear layer that saw several examples, and what confirms them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Update
from fedspill.inversion.analytic.certificate import Explanation, explanation, range_violation, replay
from fedspill.inversion.gradients.layer import Layer, LayerGradient
from fedspill.inversion.gradients.linear import RowGroup
from fedspill.inversion.gradients.losses import evidence
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.gradients.rounding import relative_rounding
from fedspill.inversion.gradients.scale import Fitted, Multiple, common_multiple
from fedspill.inversion.labels.scale import head_multiple

ONE_EXAMPLE = 1e-3
"""Residual of the rank-one test, and of a replay, below which one example explains the layer."""
EXPLAINED = 1e-2
"""Relative error below which a candidate accounts for its rows on one gradient."""
IN_RANGE = 1e-2
PRECISE = 1e-3
"""Error by known noise and rounding, over an input's root mean square, beyond which rows that agree confirm nothing:
mixtures of little weight agree within it, too."""


@dataclass(frozen=True)
class Candidate:
    """One input that the layer's gradient shows.

    Attributes:
        certified: the update itself confirms it.
        label: of the certificate, if there is one.
        rows: in which it was seen.
    """

    z: Float[Tensor, " d"]
    confidence: float
    certified: bool
    rows: Int[Tensor, " rows"]
    label: int | None = None


@dataclass(frozen=True)
class Check:
    """What confirms a candidate: the network in float64, labels to try, and one example's share of the mean.

    Attributes:
        share: None fits it to each candidate.
    """

    model: Model
    bias: str
    labels: Tensor
    share: float | None

    def told(self, gradient: LayerGradient, x: Tensor, rows: Tensor) -> Explanation:
        """What the network says of a candidate."""
        z = x.view(self.model.input.encoded_shape)
        return explanation(self.model, self.bias, z, self.labels, gradient.bias, rows, self.share)

    def explained(self, gradient: LayerGradient, group: RowGroup) -> Explanation | None:
        """The explanation of a group of rows by the network, if there is one."""
        if len(group.rows) < 2 or not len(self.labels) or not in_range(self.model.input, group.x):
            return None
        if gradient.guessed or gradient.error_of(group) > PRECISE:
            return None
        fit = self.told(gradient, group.x, group.rows)
        return fit if fit.residual < EXPLAINED else None


def several_examples(
    update: Update,
    knowledge: ServerKnowledge,
    layer: Layer,
    gradient: LayerGradient,
    labels: Tensor | None,
    peel: bool,
) -> list[Candidate]:
    """Candidates for the inputs of several examples, the confirmed ones first.

    Args:
        update: gradient or delta.
        knowledge: of the server.
        layer: on the flattened encoded input.
        gradient: of that layer.
        labels: of the private examples; None tries every class.
        peel: see `readout.read_layer`.
    """
    count = knowledge.num_examples
    model = knowledge.model.to(knowledge.model.like.device, torch.float64)
    check = Check(model, layer.bias, labels_to_try(model, labels), 1.0 / (count or 1))
    if not one_step(update, knowledge):
        # Gradients drift along the path: single candidates prove nothing, only all of them together do.
        return _replayed(update, knowledge, layer, check, gradient)
    sure, remaining = list[Candidate](), gradient
    if count is not None:
        sure, remaining = _all_confirmed(check, gradient, count, peel=peel)
    if not sure:
        scaled = fitted(check, gradient, gradient.groups(), head_multiple(update, knowledge), count)
        sure, remaining = (sure, remaining) if scaled is None else _all_confirmed(scaled, gradient, count, peel=peel)
    return sure + _unsure(model.input, gradient if not sure else remaining, sure, count)


def _all_confirmed(
    check: Check, gradient: LayerGradient, count: int | None, *, peel: bool
) -> tuple[list[Candidate], LayerGradient]:
    """All candidates that are confirmed, and with `peel` what is left of the gradient without them."""
    sure, remaining = list[Candidate](), gradient
    while True:
        fresh, remaining = _confirmed(check, remaining, sure, peel=peel)
        sure += fresh
        if not peel or not fresh or (count is not None and len(sure) >= count):
            return sure, remaining


def fitted(
    check: Check, gradient: LayerGradient, groups: Sequence[RowGroup], told: Multiple | None, count: int | None
) -> Check | None:
    """The check with the share that examples have in a multiple of the mean gradient, if candidates tell the factor.

    Args:
        check: with the share 1/n.
        gradient: of the layer.
        groups: candidates.
        told: the factor, by the classification layer.
        count: n; None leaves it open, so that the share of an example is what candidates agree on.
    """
    free = replace(check, share=None)
    fits = [fit for group in groups if (fit := free.explained(gradient, group)) is not None]
    told = None if count is None else told
    factor = common_multiple([Fitted(f.share * (count or 1), f.bias_grad) for f in fits], gradient.bias, told, count)
    return None if factor is None else replace(check, share=factor / (count or 1))


def _replayed(
    update: Update, knowledge: ServerKnowledge, layer: Layer, check: Check, gradient: LayerGradient
) -> list[Candidate]:
    """Candidates, all confirmed if there are n of them and replaying them gives the update; else none is."""
    candidates = _unsure(check.model.input, gradient, [], knowledge.num_examples)
    if len(candidates) != knowledge.num_examples or not len(check.labels):
        return candidates
    z = torch.stack([c.z for c in candidates]).view(-1, *check.model.input.encoded_shape)
    names = (layer.weight, layer.bias)
    for supposed in (check, replace(check, share=None)):  # labels as of the mean gradient, then as of a multiple
        labels = [supposed.told(gradient, c.z, c.rows).label for c in candidates]
        again = replay(update, knowledge, names, z, torch.tensor(labels))
        if again is not None and again.residual < certain_below(update, knowledge, names):
            return [
                replace(c, confidence=1.0, certified=True, label=k) for c, k in zip(candidates, labels, strict=True)
            ]
    return candidates


def certain_below(update: Update, knowledge: ServerKnowledge, names: tuple[str, ...]) -> float:
    """The residual of a replay, or of the rank-one test, below which examples explain the named tensors.

    0 where the clients' defences altered one of them: what was not sent as it is confirms nothing.
    """
    if knowledge.defence is not None and not knowledge.defence.left_out.isdisjoint(names):
        return 0.0
    # A rough update cannot confirm more precisely than it is rounded; beyond a tenth it confirms nothing.
    return min(0.1, ONE_EXAMPLE + 4 * relative_rounding(update, knowledge, names))


def _confirmed(
    check: Check, gradient: LayerGradient, sure: list[Candidate], *, peel: bool
) -> tuple[list[Candidate], LayerGradient]:
    """New candidates; with `peel` the first one only, since the other groups still hold its share."""
    fresh = list[Candidate]()
    for group in gradient.groups():
        if _is_known(group.x, [*sure, *fresh]):
            continue
        fit = check.explained(gradient, group)
        if fit is not None:
            fresh.append(Candidate(group.x, 1.0, True, group.rows, fit.label))
            if peel:
                return fresh, gradient.without(group.x, fit.bias_grad)
    return fresh, gradient


def labels_to_try(model: Model, labels: Tensor | None) -> Int[Tensor, " candidates"]:
    """The labels that a candidate may have: those known to occur, else every class; none of a loss without classes."""
    if labels is not None:
        return labels.unique()
    try:
        return torch.arange(evidence(model).classes)
    except NotApplicable:
        return torch.arange(0)


def _unsure(spec: InputSpec, gradient: LayerGradient, sure: list[Candidate], count: int | None) -> list[Candidate]:
    """Rows that nothing confirms, up to n: valid inputs, and behind a known defence's noise then all others."""
    room = max(0, (count or len(gradient.bias)) - len(sure))
    groups, candidates = gradient.groups(), list[Candidate]()
    for valid in (True, False) if gradient.altered and count is not None else (True,):
        for group in groups:
            x = gradient.likely(group)
            if len(candidates) < room and in_range(spec, x) == valid and not _is_known(x, [*sure, *candidates]):
                candidates.append(Candidate(x, 0.5 if len(group.rows) > 1 else 0.1, False, group.rows))
    return candidates


def in_range(spec: InputSpec, x: Float[Tensor, " d"]) -> bool:
    """The flattened encoded candidate is a valid input, up to rounding."""
    return float(range_violation(spec, x.view(1, *spec.encoded_shape))) < IN_RANGE


def _is_known(x: Tensor, known: list[Candidate]) -> bool:
    return any(float((x - c.z).norm()) < 1e-2 * float(c.z.norm()) for c in known)
