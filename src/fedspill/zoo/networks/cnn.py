"""A small convolutional network with a named feature extractor and head, for federated transfer learning."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from fedspill.core.errors import BadInput


@dataclass(frozen=True)
class CNNOptions:
    """Options of `cnn`.

    Attributes:
        width: of the first convolution; the others are multiples of it.
        channels: of the last one; at 32x32 the representation holds 16 values per channel.
    """

    width: int = 32
    channels: int = 32


def cnn(shape: tuple[int, int, int], num_classes: int, options: CNNOptions) -> nn.Module:
    """Six 3x3 convolutions with BatchNorm and ReLU in `extractor`, one linear layer in `head`.

    The CNN of Maui (Dabholkar et al. 2025, arXiv 2509.11451, Table 2) has about 260,000 parameters before the head and
    a representation of 512; its layout (Fig. 1a) is not given in words, so this one is ours. Strides divide the sides
    by 8, and the representation keeps what is left of the places: 32 x 4 x 4 = 512 values, none below 0.

    Takes (n, c, h, w), returns (n, num_classes).

    Raises:
        BadInput: the image is smaller than 8x8.
    """
    if min(shape[1:]) < 8:
        raise BadInput(f"cnn got images of {shape[1]}x{shape[2]}; at least 8x8 is needed")
    width, layers, inside = options.width, list[nn.Module](), shape[0]
    sides = list(shape[1:])
    for outside, stride in (
        (width, 1),
        (2 * width, 2),
        (2 * width, 1),
        (3 * width, 2),
        (4 * width, 1),
        (options.channels, 2),
    ):
        conv = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(outside), nn.ReLU()]
        inside, sides = outside, [(side - 1) // stride + 1 for side in sides]
    extractor = nn.Sequential(*layers, nn.Flatten())
    head = nn.Linear(inside * sides[0] * sides[1], num_classes)
    return nn.Sequential(OrderedDict(extractor=extractor, head=head))
