"""A strided convolutional network with a head of several linear layers, as Scale-MIA attacks it."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from fedspill.core.errors import BadInput


@dataclass(frozen=True)
class StridedCNNOptions:
    """Options of `strided_cnn`.

    Attributes:
        channels: of each convolution; each halves both sides.
        hidden: width of each hidden layer of the head.
    """

    channels: tuple[int, ...] = (12, 32, 64)
    hidden: tuple[int, ...] = (1024, 512)


def strided_cnn(shape: tuple[int, int, int], num_classes: int, options: StridedCNNOptions) -> nn.Module:
    """Convolutions of 4x4 with stride 2 and ReLU in `extractor`, linear layers with ReLU between them in `head`.

    The network of Scale-MIA (Shi et al. 2025, arXiv 2311.05808) for CIFAR-10: 64 x 4 x 4 = 1,024 values enter a first
    linear layer of 1,024 rows. Its published code has a ReLU behind the last layer as well, which this one has not.

    Takes (n, c, h, w), returns (n, num_classes).

    Raises:
        BadInput: a side of the image cannot be halved that often.
    """
    times = 2 ** len(options.channels)
    if any(side % times for side in shape[1:]):
        raise BadInput(f"strided_cnn got images of {shape[1]}x{shape[2]}; sides that {times} divides are needed")
    layers, inside = list[nn.Module](), shape[0]
    for outside in options.channels:
        layers += [nn.Conv2d(inside, outside, 4, stride=2, padding=1), nn.ReLU()]
        inside = outside
    features, head = inside * (shape[1] // times) * (shape[2] // times), list[nn.Module]()
    for width in options.hidden:
        head += [nn.Linear(features, width), nn.ReLU()]
        features = width
    return nn.Sequential(
        OrderedDict(
            extractor=nn.Sequential(*layers, nn.Flatten()), head=nn.Sequential(*head, nn.Linear(features, num_classes))
        )
    )
