"""One layer's mean gradient out of an update, its rows, and what rounding leaves of them."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.gradients.defended.completion import completion
from fedspill.inversion.gradients.defended.posterior import Entries, posterior_input
from fedspill.inversion.gradients.defended.sent import as_it_was, noise_on
from fedspill.inversion.gradients.linear import RowGroup, layer_input, row_floor, row_groups
from fedspill.inversion.gradients.mean import check_proportional, mean_gradient, one_step
from fedspill.inversion.gradients.rounding import largest_rounding


def sent(update: Update, name: str | None, what: str) -> Tensor:
    """One tensor of the update.

    Raises:
        NotApplicable: the layer has no such parameter, or it was not trained.
    """
    if name is None:
        raise NotApplicable(f"{what} is needed, but the layer has none")
    if name not in update.values:
        raise NotApplicable(f"{what} {name!r} is needed, but the update does not hold it: it was not trained")
    return update.values[name]


LOOSEST = 0.4
"""Angle (radians) by which rows may differ, at most, to be one example's behind the clients' noise."""


@dataclass(frozen=True)
class Layer:
    """Names of a linear layer's weight and bias.

    Attributes:
        gain: the layer sees the network's input multiplied by this.
    """

    weight: str
    bias: str
    gain: float = 1.0


TINY = 1e-300


@dataclass(frozen=True)
class LayerGradient:
    """A layer's mean gradient in float64, with the size of its rounding.

    Attributes:
        floor: the smallest bias gradient that may be divided by.
        noise: rounding error of one entry of `weight`; 0 where it is only relative.
        scale: by what the update was multiplied.
        deviation: of the clients' own noise on every entry, as far as the server knows it; 0 for none.
        told: entries of `weight` that were sent as they are, in rows whose bias was, too, as far as the server knows;
            None is all.
        entries: what was sent of both as it is but for noise, where there is noise.
        plain: the input by all entries, for the places of which `told` has none.
        drowned: none of it stands out of the noise.
        guessed: entries that were not sent are what the rank tells of them, so that nothing read of it is certain.
    """

    weight: Float[Tensor, "out d"]
    bias: Float[Tensor, " out"]
    floor: float
    noise: float
    scale: float = 1.0
    deviation: float = 0.0
    told: Bool[Tensor, "out d"] | None = None
    plain: Float[Tensor, " d"] | None = None
    entries: Entries | None = None
    drowned: bool = False
    guessed: bool = False

    @property
    def altered(self) -> bool:
        """A defence that the server knows changed it."""
        return bool(self.deviation) or self.told is not None

    def input(self) -> Float[Tensor, " d"]:
        """The input of one example, by all rows; a mixture of several."""
        if self.entries is not None:
            return posterior_input(self.entries)
        told = layer_input(self.weight, self.bias, self.told)
        return told if self.told is None or self.plain is None else torch.where(self.told.any(0), told, self.plain)

    def groups(self) -> list[RowGroup]:
        """Rows that agree on their input."""
        floor, noise = max(self.floor, self.deviation), math.hypot(self.noise, self.deviation)
        loosest = LOOSEST if self.deviation else math.inf
        return row_groups(self.weight, self.bias, floor=floor, noise=noise, told=self.told, loosest=loosest)

    def likely(self, group: RowGroup) -> Float[Tensor, " d"]:
        """The posterior mean of a group's input, of a normalised one's mean 0 and variance 1, given the noise on it."""
        if self.drowned:
            return torch.zeros_like(group.x)
        energy = float(self.bias[group.rows].square().sum())
        return group.x * (energy / (energy + self.deviation**2)) if self.deviation else group.x

    def error_of(self, group: RowGroup) -> float:
        """Standard deviation by noise and rounding of an input read by least squares, over its root mean square."""
        strength, size = float(self.bias[group.rows].norm()), float(group.x.square().mean().sqrt())
        return math.hypot(self.noise, self.deviation) / max(strength * size, TINY)

    def without(self, x: Tensor, bias_grad: Tensor) -> "LayerGradient":
        """What is left when one example's share is taken away; the floor and the rounding stay."""
        weight = self.weight - torch.outer(bias_grad, x)
        return replace(self, weight=weight, bias=self.bias - bias_grad, entries=None)


def layer_gradient(update: Update, knowledge: ServerKnowledge, layer: Layer) -> LayerGradient:
    """Reads a layer's gradient.

    Raises:
        NotApplicable: its weight or its bias was not trained, its bias gradient is zero, or the clients' optimiser
            leaves no ratios.
    """
    check_proportional(update, knowledge)
    dtype = sent(update, layer.bias, "the layer's bias").dtype
    sent(update, layer.weight, "the layer's weight")
    mean = mean_gradient(update, knowledge, (layer.weight, layer.bias))
    weight, bias = mean.values[layer.weight], mean.values[layer.bias]
    weight = weight if layer.gain == 1 else weight / layer.gain
    top = float(bias.abs().max())
    if top == 0:
        raise NotApplicable(f"the gradient of {layer.bias!r} is zero, so nothing can be divided by it")
    noise = largest_rounding(update, knowledge.model.params, [layer.weight], mean.scale) / layer.gain
    gradient = LayerGradient(weight, bias, row_floor(dtype) * top, noise, mean.scale)
    return gradient if knowledge.defence is None else _defended(gradient, update, knowledge, layer, knowledge.defence)


def _defended(
    gradient: LayerGradient, update: Update, knowledge: ServerKnowledge, layer: Layer, known: KnownDefence
) -> LayerGradient:
    """With what is known of noise and rounding, and without the entries that were not sent as they are."""
    found = completion(update, knowledge).of(layer.weight) if one_step(update, knowledge) else None
    if found is not None and found.bias is not None and math.isfinite(found.error):
        deviation = found.error * abs(gradient.scale / layer.gain)
        return replace(gradient, deviation=deviation, guessed=known.survivors or known.cut)
    deviation = noise_on(layer.weight, update, knowledge, known, gradient.scale) / abs(layer.gain)
    gradient = replace(gradient, drowned=found is not None and math.isinf(found.error))
    weight, bias = (as_it_was(update, name, known) for name in (layer.weight, layer.bias))
    usable = weight & (bias & (update.values[layer.bias] != 0))[:, None]
    if not bool(usable.any()):
        return replace(gradient, deviation=deviation)
    entries = Entries(gradient.weight, gradient.bias, weight, bias, deviation) if deviation else None
    gradient = replace(gradient, deviation=deviation, entries=entries)
    if not (known.survivors or known.cut):
        return gradient
    plain = layer_input(gradient.weight, gradient.bias)
    return replace(gradient, bias=gradient.bias * bias.to(gradient.bias.device), told=usable, plain=plain)


EXACT_FLOOR = 1e-7


def row_gradient(update: Update, knowledge: ServerKnowledge, layer: Layer) -> LayerGradient:
    """The layer's mean gradient, with a floor that suits rows of one example.

    Where one example alone fires a row nothing cancels, so a gradient of float32 is as exact in a weak row as in
    a strong one; a delta is rounded by the size of the parameters, and weak rows are lost.

    Raises:
        NotApplicable: the layer was not trained, or its bias gradient is zero.
    """
    gradient = layer_gradient(update, knowledge, layer)
    if update.kind is not UpdateKind.GRADIENT:
        return gradient
    return replace(gradient, floor=EXACT_FLOOR * float(gradient.bias.abs().max()))
