"""What the bins of an imprint module hold, from the gradient of the planted layer (Robbing the Fed, eq. 4)."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.blocks import rows_at_once
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update
from fedspill.inversion.gradients.defended.sent import LEVELS
from fedspill.inversion.gradients.layer import Layer, LayerGradient, layer_gradient, sent
from fedspill.inversion.gradients.rounding import entry_rounding
from fedspill.inversion.imprint.rows import Group, Imprint

ROUNDINGS = 8.0
"""Multiples of one rounding error below which a number counts as nothing."""
CLEAR = 2.0
"""Standard deviations of the clients' noise below which a number counts as nothing; shrinking does the rest."""


@dataclass(frozen=True)
class Contents:
    """The sums of c (x, 1) over the examples of each bin of one group; c is the derivative by the row's output.

    Attributes:
        weight: sums of c x, float64.
        bias: sums of c.
        noise: size of the rounding error in `bias`; what is smaller is nothing.
        rough: size of the rounding error in the norm of a row of `weight`.
        deviation: standard deviation of the clients' own noise on each number of both, as far as the server knows it.
    """

    weight: Float[Tensor, "k features"]
    bias: Float[Tensor, " k"]
    noise: Float[Tensor, " k"]
    rough: Float[Tensor, " k"]
    deviation: float = 0.0

    def filled(self) -> Bool[Tensor, " k"]:
        """The bins that hold something."""
        return (self.weight.norm(dim=1) > self.rough) | self.known()

    def known(self) -> Bool[Tensor, " k"]:
        """The bins whose sum of c stands out of its rounding, so that it can be divided by."""
        return self.bias.abs() > self.noise

    def ratio(self, chosen: Tensor) -> Float[Tensor, "m features"]:
        """The weighted mean of the examples in the chosen bins: the example itself where there is one.

        Behind noise the posterior mean of a normalised input, of mean 0 and variance 1.
        """
        total = self.bias[chosen, None]
        return self.weight[chosen].div_(total + self.deviation**2 / total if self.deviation else total)


def contents(update: Update, knowledge: ServerKnowledge, layer: Layer, imprint: Imprint) -> list[Contents]:
    """The contents of all groups.

    ReLU rows are active for all examples above their lower end, so that a bin is the difference of two neighbours;
    the topmost row is its own bin, which nothing is taken from. Sparse rows are their bins.

    Raises:
        NotApplicable: the layer was not trained.
    """
    if not bool(sent(update, layer.bias, "the layer's bias").any()):
        return [_nothing(update.values[layer.weight], group) for group in imprint.groups]
    gradient = layer_gradient(update, _of_noise(knowledge), layer)
    eps = _rounding(update, knowledge, layer, gradient)
    return [_of_group(gradient, group, imprint.sparse, eps) for group in imprint.groups]


def _of_noise(knowledge: ServerKnowledge) -> ServerKnowledge:
    """With the defence only where it is noise or rounding.

    Of values left out or cut alone a difference of rows keeps what both hold exactly, which rank does not tell as well.
    """
    known = knowledge.defence
    return knowledge if known is None or known.is_noisy or known.bits else replace(knowledge, defence=None)


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
    deviation = gradient.deviation * (1 if sparse else math.sqrt(2))
    noise = ROUNDINGS * (eps.relative * size + eps.absolute[rows])
    if deviation:
        bias, off = _measured(weight, bias, group, deviation)
        noise = noise + CLEAR * off
    rough = ROUNDINGS * (eps.relative * length + gradient.noise * weight.shape[1] ** 0.5)
    rough = rough + CLEAR * deviation * weight.shape[1] ** 0.5
    # A sparse row that nothing touched is exactly 0; a floor keeps it from passing as full.
    least = eps.relative * gradient.floor
    if gradient.drowned:
        noise = torch.full_like(noise, torch.inf)
    return Contents(weight, bias, noise.clamp_min(least), rough.clamp_min(least), deviation)


def _measured(weight: Tensor, bias: Tensor, group: Group, deviation: float) -> tuple[Tensor, Tensor]:
    """The sums of c with what the bins themselves tell, and their standard deviations.

    Whoever is alone in a bin measured h = <w, x> in it, so that <w, sum of c x> is c h: a mean over all features, of
    which the noise is as much smaller as w is shorter than h.
    """
    vector, edges = group.vector.to(weight), group.edges.to(weight)
    middle, width = (edges[1:] + edges[:-1]) / 2, edges.diff()
    told = weight @ vector / middle
    off = torch.hypot(deviation * vector.norm(), told * width / LEVELS) / middle.abs()
    trust = off.square().nan_to_num(torch.inf).clamp_min(1e-300).reciprocal()
    own = deviation**-2
    total = (bias * own + told.nan_to_num(0.0, 0.0, 0.0) * trust) / (own + trust)
    return total, (own + trust).rsqrt()


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
