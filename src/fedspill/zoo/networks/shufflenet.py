"""ShuffleNet V2 (Ma et al. 2018, arXiv 1807.11164) for small images: no stride before the first stage."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.zoo.networks.resnet import Average

REPEATS = (4, 8, 4)
STEM = 24


@dataclass(frozen=True)
class ShuffleNetOptions:
    """Options of `shufflenet_v2`.

    Attributes:
        size: channels of all stages, by the names of torchvision; x1_0 is the paper's 1x (Table 5).
    """

    size: Literal["x0_5", "x1_0", "x1_5", "x2_0"] = "x1_0"

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Widths of the three stages and of the last convolution, whose means are the representation."""
        return {
            "x0_5": (48, 96, 192, 1024),
            "x1_0": (116, 232, 464, 1024),
            "x1_5": (176, 352, 704, 1024),
            "x2_0": (244, 488, 976, 2048),
        }[self.size]


def _pointwise(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class Unit(nn.Module):
    """Half of the channels pass, or are halved in size; the other half is convolved; then both are shuffled."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.stride, half = stride, outside // 2
        taken = inside if stride > 1 else half
        self.convolved = nn.Sequential(*_pointwise(taken, half), *_depthwise(half, stride), *_pointwise(half, half))
        passed = [*_depthwise(inside, stride), *_pointwise(inside, half)] if stride > 1 else []
        self.passed = nn.Sequential(*passed)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, outside, h/stride, w/stride)."""
        left, right = (x, x) if self.stride > 1 else x.chunk(2, 1)
        both = torch.stack([self.passed(left), self.convolved(right)], 2)
        return both.flatten(1, 2)


def shufflenet_v2(shape: tuple[int, int, int], num_classes: int, options: ShuffleNetOptions) -> nn.Module:
    """Stem of 24 channels, three stages of 4, 8 and 4 units, a pointwise convolution, means, linear head `fc`.

    Takes (n, c, h, w), returns (n, num_classes).

    Raises:
        BadInput: the image is smaller than 8x8.
    """
    if min(shape[1:]) < 8:
        raise BadInput(f"shufflenet_v2 got images of {shape[1]}x{shape[2]}; at least 8x8 is needed")
    *stages, last = options.channels
    stem = [nn.Conv2d(shape[0], STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM), nn.ReLU()]
    layers = OrderedDict[str, nn.Module](stem=nn.Sequential(*stem))
    inside = STEM
    for number, (outside, repeats) in enumerate(zip(stages, REPEATS, strict=True), start=1):
        units = [Unit(inside if k == 0 else outside, outside, 2 if k == 0 else 1) for k in range(repeats)]
        layers[f"stage{number}"], inside = nn.Sequential(*units), outside
    layers |= {"last": nn.Sequential(*_pointwise(inside, last)), "mean": Average(), "fc": nn.Linear(last, num_classes)}
    return nn.Sequential(layers)
