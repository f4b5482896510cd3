"""The usual ways of feeding pictures, tried in place of the one that was given."""

from dataclasses import dataclass, replace

import torch

from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.zoo.statistics import CIFAR10, IDENTITY, IMAGENET, PLAIN, Statistics

CLOSE = 0.02
"""Two ways whose numbers differ by less, in their own units, are one."""


@dataclass(frozen=True)
class Way:
    """One way of feeding pictures.

    Attributes:
        words: as a plan would say it.
    """

    words: str
    statistics: Statistics


def _normalised(statistics: Statistics) -> Way:
    return Way(f"{statistics}", statistics)


_ALWAYS = (
    Way("pixels in [0, 1] as they are", IDENTITY),
    Way("mean 0.5, std 0.5 (pixels in [-1, 1])", Statistics((0.5,), (0.5,))),
    _normalised(PLAIN),
    Way("range (0, 255)", Statistics((0.0,), (1 / 255,))),
)
_COLOUR = (
    _normalised(IMAGENET),
    _normalised(CIFAR10),
    Way("range (0, 255), mean (123.675, 116.28, 103.53), std 1", Statistics(IMAGENET.mean, (1 / 255,))),
)
_GREY = (
    _normalised(Statistics((0.1307,), (0.3081,))),
    _normalised(Statistics((0.2860,), (0.3530,))),
)
"""MNIST's and Fashion-MNIST's."""


def other_ways(spec: ImageSpec) -> list[tuple[Way, ImageSpec]]:
    """The usual ways for pictures of this many channels, without the one that `spec` is."""
    ways = (*_ALWAYS, *(_COLOUR if spec.shape[0] == 3 else _GREY if spec.shape[0] == 1 else ()))
    specs = [(way, replace(spec, mean=way.statistics.mean, std=way.statistics.std)) for way in ways]
    return [(way, other) for way, other in specs if not _alike(spec, other)]


def fed_as(model: Model, spec: ImageSpec) -> Model:
    """The same network, fed in another way."""
    return replace(model, input=spec)


def _alike(one: ImageSpec, other: ImageSpec) -> bool:
    """Black and white become the same numbers, nearly, in every channel."""
    return all(
        abs(a - b) <= CLOSE * (1 + abs(a)) for a, b in zip(_black_and_white(one), _black_and_white(other), strict=True)
    )


def _black_and_white(spec: ImageSpec) -> list[float]:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1).expand(2, spec.shape[0], 1, 1)
    return spec.encode(ends).flatten().tolist()
