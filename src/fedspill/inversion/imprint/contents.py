"""What the bins of an imprint module hold, from the gradient of the planted layer (Robbing the Fed, eq. 4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.blocks import rows_at_once
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update
from fedspill.inversion.gradients.layer import Layer, LayerGradient, layer_gradient, sent
from fedspill.inversion.gradients.rounding import entry_rounding
from fedspill.inversion.imprint.rows import Group, Imprint

ROUNDINGS = 8.0
"""Multiples of one rounding error below which a number counts as nothing."""


@dataclass(frozen=True)
class Contents:
    """The sums of c (x, 1) over the examples of each bin of one group; c is the derivative by the row's output.

    Attributes:
        weight: sums of c x, float64.
        bias: sums of c.
        noise: size of the rounding error in `bias`; what is smaller is nothing.
        rough: size of the rounding error in the norm of a row of `weight`.
    """

    weight: Float[Tensor, "k features"]
    bias: Float[Tensor, " k"]
    noise: Float[Tensor, " k"]
    rough: Float[Tensor, " k"]

    def filled(self) -> Bool[Tensor, " k"]:
        """The bins that hold something."""
        return (self.weight.norm(dim=1) > self.rough) | self.known()

    def known(self) -> Bool[Tensor, " k"]:
        """The bins whose sum of c stands out of its rounding, so that it can be divided by."""
        return self.bias.abs() > self.noise

    def ratio(self, chosen: Tensor) -> Float[Tensor, "m features"]:
        """The weighted mean of the examples in the chosen bins: the example itself where there is one."""
        return self.weight[chosen].div_(self.bias[chosen, None])


def contents(update: Update, knowledge: ServerKnowledge, layer: Layer, imprint: Imprint) -> list[Contents]:
    """The contents of all groups.

    ReLU rows are active for all examples above their lower end, so that a bin is the difference of two neighbours;
    the topmost row is its own bin, which nothing is taken from. Sparse rows are their bins.

    Raises:
        NotApplicable: the layer was not trained.
    """
    if not bool(sent(update, layer.bias, "the layer's bias").any()):
        return [_nothing(update.values[layer.weight], group) for group in imprint.groups]
    gradient = layer_gradient(update, knowledge, layer)
    eps = _rounding(update, knowledge, layer, gradient)
    return [_of_group(gradient, group, imprint.sparse, eps) for group in imprint.groups]


def _nothing(weight: Tensor, group: Group) -> Contents:
    empty = weight.new_zeros(len(group.rows), dtype=torch.float64)
    return Contents(empty[:, None].expand(-1, weight.shape[1]), empty, empty + 1, empty + 1)


def _of_group(gradient: LayerGradient, group: Group, sparse: bool, eps: "Rounding") -> Contents:
    rows = group.rows.to(gradient.bias.device)
    weight, bias = gradient.weight[rows], gradient.bias[rows]
    size, length = bias.abs(), weight.norm(dim=1)
    if not sparse:
        size, length = (torch.maximum(v, torch.cat([v[1:], v.new_zeros(1)])) for v in (size, length))
        _less_the_next(weight)
        bias[:-1] -= gradient.bias[rows[1:]]
    noise = ROUNDINGS * (eps.relative * size + eps.absolute[rows])
    rough = ROUNDINGS * (eps.relative * length + gradient.noise * weight.shape[1] ** 0.5)
    # A sparse row that nothing touched is exactly 0; a floor keeps it from passing as full.
    least = eps.relative * gradient.floor
    return Contents(weight, bias, noise.clamp_min(least), rough.clamp_min(least))


def _less_the_next(rows: Tensor) -> None:
    """Takes row i + 1 from row i in place; the last one stays."""
    step = rows_at_once(rows)
    for first in range(0, len(rows) - 1, step):
        chunk = rows[first : min(first + step, len(rows) - 1)]
        chunk -= rows[first + 1 : first + 1 + len(chunk)].clone()


@dataclass(frozen=True)
class Rounding:
    """Errors of a bias gradient: relative to its size, and absolute per row."""

    relative: float
    absolute: Float[Tensor, " rows"]


def _rounding(update: Update, knowledge: ServerKnowledge, layer: Layer, gradient: LayerGradient) -> Rounding:
    # The client's own arithmetic rounds by the size of the gradient, whatever is sent.
    relative = torch.finfo(update.values[layer.bias].dtype).eps
    return Rounding(relative, entry_rounding(update, knowledge, layer.bias, gradient.scale))
