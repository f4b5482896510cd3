"""The scale of what rows show after local training, where the bias moved by little more than its rounding.

A delta is the difference of two rounded parameters. The folded normalisation makes biases large, so that the sum of
the derivatives, by which a row is divided, is rough, while the row's direction is good. The factor that is missing
comes from the lattice of real data (see `lattice_scale`). Not in the paper, whose rows have bias 0.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.codebooks.scale import lattice_scale
from fedspill.inversion.gradients.layer import LayerGradient
from fedspill.inversion.gradients.linear import RowGroup
from fedspill.inversion.gradients.rounding import entry_rounding
from fedspill.inversion.traps.passthrough import PassThrough

GOOD = 1e-5
"""Relative rounding of a bias gradient below which it is left alone."""
MOST = 0.5
"""Relative rounding beyond which there is no telling."""
ON_LATTICE = 0.1
"""Distance from the lattice, in steps, below which a candidate is one example; mixtures lie at 0.25."""


def rescaled(
    update: Update,
    knowledge: ServerKnowledge,
    carried: PassThrough,
    gradient: LayerGradient,
    groups: Sequence[RowGroup],
) -> Float[Tensor, "m d"]:
    """The layer's inputs of all groups, those that a rough bias misplaced put right where the lattice tells how."""
    x = torch.stack([g.x for g in groups])
    if update.kind is UpdateKind.GRADIENT:
        return x
    error = _rounding(update, knowledge, carried, gradient)
    strongest = torch.stack([g.rows[0] for g in groups])
    rough = 4 * error[strongest]
    for k in ((rough > GOOD) & (rough < MOST)).nonzero()[:, 0].tolist():
        factor = _factor(carried, knowledge.model.input, x[k], float(rough[k]))
        if factor is not None:
            x[k] *= factor
    return x


def _rounding(
    update: Update, knowledge: ServerKnowledge, carried: PassThrough, gradient: LayerGradient
) -> Float[Tensor, " rows"]:
    """The relative error of each bias gradient: that of the parameters, over what the bias moved by."""
    name = carried.layer.bias
    return entry_rounding(update, knowledge, name, gradient.scale) / gradient.bias.abs().clamp_min(1e-300)


def _factor(carried: PassThrough, spec: InputSpec, x: Float[Tensor, " d"], rough: float) -> float | None:
    low, high = 1 / (1 + rough), 1 / (1 - rough)
    if isinstance(spec, TableSpec):
        fit = lattice_scale(spec, x, low, high)
    else:
        # unit = gain * feature + offset, as a picture of one channel per feature that decodes to units.
        used = carried.used
        gain, offset = (tuple(v[used].tolist()) for v in (carried.gain, carried.offset))
        fit = lattice_scale(ImageSpec((len(used), 1, 1), mean=offset, std=gain), x[used], low, high)
    return fit[0] if fit is not None and fit[1] < ON_LATTICE else None
