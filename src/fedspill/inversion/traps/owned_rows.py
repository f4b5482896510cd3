"""Which rows of a linear layer hold exactly one example, judged without the truth.

The ratio dW / db of a row is an example if one example alone fires it, else a mixture, often a convex one: that
lies in the range of inputs and fires the same rows, so neither test rejects it. What a mixture cannot do is lie
on the lattice of real data, or reproduce the gradient when it is passed through the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Mark, Update
from fedspill.inversion.analytic.candidates import EXPLAINED, IN_RANGE, Check, fitted, labels_to_try
from fedspill.inversion.codebooks.lattice import LEVELS
from fedspill.inversion.gradients.firing import contradicted
from fedspill.inversion.gradients.layer import LayerGradient, row_gradient
from fedspill.inversion.gradients.linear import RowGroup
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.traps.passthrough import PassThrough
from fedspill.inversion.traps.row_scale import ON_LATTICE, rescaled

OFF_LATTICE = 0.15
"""Distance above which a candidate is a mixture, if others of the same update lie on the lattice."""
SAME = 1e-3
"""Root mean squared difference, in units of the range, below which two candidates are one example."""
"""Of a gradient, bias gradients below this fraction of the largest are not divided by."""
REPLAYS = 4
"""At most this many candidates per example are passed through the network."""


@dataclass(frozen=True)
class OwnedRows:
    """One candidate.

    Attributes:
        x: the layer's input, float64.
        rows: those that show it, the strongest of the best group first.
        mark: "alone" is certified; "unsure" and "mixture" are not.
        confidence: 1 certified, 0.5 if rows agree, 0.2 for a row that nothing contradicts, 0 for a mixture.
    """

    x: Float[Tensor, " d"]
    rows: Int[Tensor, " rows"]
    mark: Mark
    confidence: float


def owned_rows(
    update: Update, knowledge: ServerKnowledge, carried: PassThrough, labels: Tensor | None
) -> list[OwnedRows]:
    """Candidates for the layer's inputs, each once, the certified ones first, then those that several rows show.

    Args:
        update: gradient or delta.
        knowledge: of the server.
        carried: the layer, and the range of its inputs.
        labels: of the private examples; None tries every class.

    Raises:
        NotApplicable: see `row_gradient`.
    """
    gradient, spec = row_gradient(update, knowledge, carried.layer), knowledge.model.input
    groups = gradient.groups()
    if not groups:
        return []
    x = rescaled(update, knowledge, carried, gradient, groups)
    groups = [replace(g, x=moved) for g, moved in zip(groups, x, strict=True)]
    units = carried.units(x)
    possible = (units.amin(1) > -IN_RANGE) & (units.amax(1) < 1 + IN_RANGE)
    if one_step(update, knowledge):
        possible &= ~contradicted(knowledge.model.params, carried.layer, gradient, groups, x)
    distance = carried.off_lattice(x, spec)
    seen = _blur(knowledge.model, carried, gradient, groups) < OFF_LATTICE
    on = possible & (distance < ON_LATTICE)
    # Real numbers, such as resized pictures, have no lattice: then its absence says nothing.
    mixed = ~possible | (bool(on.any()) & seen & (distance > OFF_LATTICE))
    sure = on | _replayed(update, knowledge, carried, gradient, groups, ~(on | mixed), labels)
    order = distance.nan_to_num(1.0).argsort(stable=True).tolist()
    candidates = [_judged(groups[k], bool(sure[k]), bool(mixed[k])) for k in order]
    return _distinct(sorted(candidates, key=lambda c: -c.confidence), carried)


def _blur(
    model: Model, carried: PassThrough, gradient: LayerGradient, groups: Sequence[RowGroup]
) -> Float[Tensor, " m"]:
    """What rounding of a delta leaves in pixels, in steps; the lattice cannot be seen through much of it."""
    strength = torch.stack([gradient.bias[g.rows].norm() for g in groups])
    levels = LEVELS if isinstance(model.input, ImageSpec) else 1
    return levels * float(carried.gain[carried.used].abs().mean()) * gradient.noise / strength


def _judged(group: RowGroup, sure: bool, mixed: bool) -> OwnedRows:
    if sure:
        return OwnedRows(group.x, group.rows, "alone", 1.0)
    if mixed:
        return OwnedRows(group.x, group.rows, "mixture", 0.0)
    return OwnedRows(group.x, group.rows, "unsure", 0.5 if len(group.rows) > 1 else 0.2)


def _distinct(candidates: Sequence[OwnedRows], carried: PassThrough) -> list[OwnedRows]:
    """The first of those that show the same example up to rounding, with the rows of all."""
    units = carried.units(torch.stack([c.x for c in candidates]))
    near = torch.cdist(units, units) < SAME * units.shape[1] ** 0.5
    out, free = list[OwnedRows](), torch.ones(len(candidates), dtype=torch.bool, device=units.device)
    for first, best in enumerate(candidates):
        if free[first]:
            members = (near[first] & free).nonzero()[:, 0].tolist()
            free[members] = False
            # Rows in which others have a tiny part would spoil the best, so its value stays.
            others = [candidates[k].rows for k in members if k != first]
            out.append(replace(best, rows=torch.cat([best.rows, *others])))
    return out


def _replayed(
    update: Update,
    knowledge: ServerKnowledge,
    carried: PassThrough,
    gradient: LayerGradient,
    groups: Sequence[RowGroup],
    asked: Bool[Tensor, " m"],
    labels: Tensor | None,
) -> Bool[Tensor, " m"]:
    """Candidates of two rows or more whose pass through the network gives these rows' gradients."""
    sure, count = torch.zeros_like(asked), knowledge.num_examples
    if count is None or not one_step(update, knowledge):
        return sure
    model = knowledge.model.to(knowledge.model.like.device, torch.float64)
    check = Check(model, carried.layer.bias, labels_to_try(model, labels), 1.0 / count)
    if not len(check.labels):
        return sure
    open_ = [k for k in asked.nonzero()[:, 0].tolist() if len(groups[k].rows) > 1][: REPLAYS * count]
    shown = [replace(groups[k], x=carried.encoded(groups[k].x[None], model.input).flatten()) for k in open_]
    told = [check.told(gradient, g.x, g.rows).residual < EXPLAINED for g in shown]
    if not any(told):
        scaled = fitted(check, gradient, shown, head_multiple(update, knowledge), count)
        told = told if scaled is None else [scaled.told(gradient, g.x, g.rows).residual < EXPLAINED for g in shown]
    sure[open_] = torch.tensor(told, dtype=torch.bool, device=sure.device)
    return sure
