"""The gradient of one linear layer, and the labels behind it, as the readouts need them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion import labels as inference
from fedspill.inversion.head import sent
from fedspill.inversion.linear_leakage import RowGroup, row_floor, row_groups
from fedspill.inversion.mean_gradient import mean_gradient


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
        NotApplicable: its weight or its bias was not trained, or its bias gradient is zero.
    """
    dtype = sent(update, layer.bias, "the layer's bias").dtype
    sent(update, layer.weight, "the layer's weight")
    mean = mean_gradient(update, knowledge, (layer.weight, layer.bias))
    weight, bias = mean.values[layer.weight], mean.values[layer.bias]
    weight = weight if layer.gain == 1 else weight / layer.gain
    top = float(bias.abs().max())
    if top == 0:
        raise NotApplicable(f"the gradient of {layer.bias!r} is zero, so nothing can be divided by it")
    noise = _rounding(update, knowledge, layer) * mean.scale / layer.gain
    return LayerGradient(weight, bias, row_floor(dtype) * top, noise, mean.scale)


def _rounding(update: Update, knowledge: ServerKnowledge, layer: Layer) -> float:
    # A delta is the difference of two rounded parameters: its error is that of the parameters, not its own.
    if update.kind is UpdateKind.GRADIENT:
        return 0.0
    eps = torch.finfo(update.values[layer.weight].dtype).eps
    return eps * float(knowledge.model.params[layer.weight].abs().max())


@dataclass(frozen=True)
class Labels:
    """Labels of the private examples; `method` is None if they were granted."""

    values: Int[Tensor, " n"]
    method: str | None


def known_labels(update: Update, knowledge: ServerKnowledge, rng: torch.Generator, count: int | None) -> Labels | None:
    """Granted labels, else inferred ones, else None; None also for next tokens, of which no readout makes use."""
    if knowledge.labels is not None:
        return Labels(knowledge.labels, None) if knowledge.labels.ndim == 1 else None
    if count is None:
        return None
    try:
        method = inference.default_method(update, knowledge, count)
        return Labels(inference.infer(method, update, knowledge, count, rng), method)
    except NotApplicable:
        return None
