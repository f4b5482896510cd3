"""One layer's mean gradient out of an update, its rows, and what rounding leaves of them."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.gradients.linear import RowGroup, row_floor, row_groups
from fedspill.inversion.gradients.mean import check_proportional, mean_gradient
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


@dataclass(frozen=True)
class Layer:
    """Names of a linear layer's weight and bias.

    Attributes:
        gain: the layer sees the network's input multiplied by this.
    """

    weight: str
    bias: str
    gain: float = 1.0


@dataclass(frozen=True)
class LayerGradient:
    """A layer's mean gradient in float64, with the size of its rounding.

    Attributes:
        floor: the smallest bias gradient that may be divided by.
        noise: rounding error of one entry of `weight`; 0 where it is only relative.
        scale: by what the update was multiplied.
    """

    weight: Float[Tensor, "out d"]
    bias: Float[Tensor, " out"]
    floor: float
    noise: float
    scale: float = 1.0

    def groups(self) -> list[RowGroup]:
        """Rows that agree on their input."""
        return row_groups(self.weight, self.bias, floor=self.floor, noise=self.noise)

    def without(self, x: Tensor, bias_grad: Tensor) -> "LayerGradient":
        """What is left when one example's share is taken away; the floor and the rounding stay."""
        weight = self.weight - torch.outer(bias_grad, x)
        return LayerGradient(weight, self.bias - bias_grad, self.floor, self.noise, self.scale)


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
    return LayerGradient(weight, bias, row_floor(dtype) * top, noise, mean.scale)


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
