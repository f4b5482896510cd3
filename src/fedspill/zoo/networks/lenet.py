"""LeNet as gradient inversion uses it: twice differentiable, nothing pooled away."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import nn

WIDTH = 12


@dataclass(frozen=True)
class LeNetOptions:
    """Options of `lenet`.

    Attributes:
        activation: "sigmoid" as published; "relu" has no second derivative and resists L-BFGS attacks.
    """

    activation: Literal["sigmoid", "relu"] = "sigmoid"


def lenet(shape: tuple[int, int, int], num_classes: int, options: LeNetOptions) -> nn.Module:
    """LeNet of Zhu et al. 2019 (arXiv 1906.08935): three 5x5 convolutions of width 12 and one linear layer.

    Takes (n, c, h, w), returns (n, num_classes); 768 features at 32x32.
    """
    act = nn.Sigmoid if options.activation == "sigmoid" else nn.ReLU
    height, width = (math.ceil(side / 4) for side in shape[1:])  # two strides of 2, both rounded up
    return nn.Sequential(
        nn.Sequential(
            *(nn.Conv2d(shape[0], WIDTH, 5, padding=2, stride=2), act()),
            *(nn.Conv2d(WIDTH, WIDTH, 5, padding=2, stride=2), act()),
            *(nn.Conv2d(WIDTH, WIDTH, 5, padding=2, stride=1), act()),
        ),
        nn.Flatten(),
        nn.Linear(WIDTH * height * width, num_classes),
    )
