"""The ConvNet of Inverting Gradients."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from fedspill.core.errors import BadInput

MULTIPLES = (1, 2, 2, 4, 4, 4, None, 4, 4, None)
"""Widths of the eight convolutions in multiples of the base width; None is a 3x3 maximum pool."""


@dataclass(frozen=True)
class ConvNetOptions:
    """Options of `convnet`.

    Attributes:
        width: D, the base width; 64 in the paper.
        padding: "zeros", or "circular", which makes the convolutions translation equivariant.
    """

    width: int = 64
    padding: Literal["zeros", "circular"] = "zeros"


def convnet(shape: tuple[int, int, int], num_classes: int, options: ConvNetOptions) -> nn.Module:
    """ConvNet of Geiping et al. 2020 (arXiv 2003.14053, the authors' code).

    Eight 3x3 convolutions, each with BatchNorm and ReLU, two 3x3 pools, one linear layer on 36 D features (at
    32x32). Takes (n, c, h, w), returns (n, num_classes).

    Raises:
        BadInput: the image is smaller than 9x9, so nothing is left after the pools.
    """
    pooled = [side // 3 // 3 for side in shape[1:]]
    if min(pooled) == 0:
        raise BadInput(f"convnet got images of {shape[1]}x{shape[2]}; at least 9x9 is needed")
    layers: list[nn.Module] = []
    channels = shape[0]
    for multiple in MULTIPLES:
        if multiple is None:
            layers.append(nn.MaxPool2d(3))
        else:
            layers.append(_block(channels, multiple * options.width, options.padding))
            channels = multiple * options.width
    return nn.Sequential(nn.Sequential(*layers), nn.Flatten(), nn.Linear(channels * pooled[0] * pooled[1], num_classes))


def _block(inside: int, outside: int, padding: Literal["zeros", "circular"]) -> nn.Module:
    conv = nn.Conv2d(inside, outside, 3, padding=1, padding_mode=padding)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), nn.ReLU())
