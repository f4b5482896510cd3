"""Which cutoff along a direction of the features comes next, by what the last one let through.

The features of those who speak show only as their mean. Their largest value lies above it, so that a cutoff just below
the mean leaves at least one of them, and of many about half.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn
from fedspill.inversion.fishing.catching import Catch

STEP = 0.95
"""Of the way from a cutoff to the mean of those who pass it."""
AGREE = 1e-6
"""Relative difference of two rounds' means at which they are of the same examples."""
CLOSE = 0.01
"""Spreads from the cutoff to the mean of those who pass it at which no further cutoff tells them apart."""


@dataclass(frozen=True)
class Cutoff:
    """A cutoff along a direction.

    Attributes:
        direction: of the features, (d,) float64.
        value: of the cutoff.
        spread: about how far features lie apart along the direction.
        upwards: who lies above it passes; else who lies below.
        passed: a cutoff that somebody is known to pass, infinite if none is.
        mean: of those who passed the last one, NaN at first.
        done: one example passes, or several that no cutoff tells apart.
    """

    direction: Float[Tensor, " d"]
    value: float
    spread: float
    upwards: bool
    passed: float = math.inf
    mean: float = math.nan
    done: bool = False

    def after(self, catch: Catch | None) -> "Cutoff":
        """The next one, once it is seen who passed; the same again if it is a single example."""
        if catch is None:
            back = self.value - (self.spread if self.upwards else -self.spread)
            return replace(self, value=back if math.isinf(self.passed) else (self.value + self.passed) / 2)
        mean = float(self.direction @ catch.features.to(self.direction))
        agrees = abs(mean - self.mean) <= AGREE * (abs(mean) + abs(mean - self.value))
        if catch.single or (agrees and abs(mean - self.value) <= CLOSE * self.spread):
            return replace(self, mean=mean, done=True)
        if catch.count == 1:  # others are heard in part: away from them
            return replace(self, value=(self.value + mean) / 2, mean=mean)
        return replace(self, value=self.value + STEP * (mean - self.value), passed=self.value, mean=mean)


def unlike(mean: Float[Tensor, " d"], rng: torch.Generator) -> Float[Tensor, " d"]:
    """A random direction of length 1 along which the mean is 0, so that what all features share takes no digits.

    Random, since what goes back along it must tell the layers before: the direction along which features differ most
    is smooth over positions, and tells less.
    """
    drawn = randn(tuple(mean.shape), rng, mean)
    drawn = drawn - mean * (drawn @ mean) / mean.square().sum().clamp_min(torch.finfo(mean.dtype).tiny)
    return drawn / drawn.norm()
