"""Fully connected networks."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@dataclass(frozen=True)
class MLPOptions:
    """Options of `mlp`.

    Attributes:
        hidden: width of each hidden layer; () is a linear classifier.
        bias: whether every layer has one; R-GAP and linear readouts treat the two cases differently.
        activation: after each hidden layer.
    """

    hidden: tuple[int, ...] = (512, 256)
    bias: bool = True
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"


def mlp(shape: tuple[int, ...], num_classes: int, options: MLPOptions) -> nn.Module:
    """Flatten, then linear layers. Takes (n, *shape), returns (n, num_classes)."""
    layers: list[nn.Module] = [nn.Flatten()]
    features = math.prod(shape)
    for width in options.hidden:
        layers += [nn.Linear(features, width, bias=options.bias), ACTIVATIONS[options.activation]()]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, num_classes, bias=options.bias))
