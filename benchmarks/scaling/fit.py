"""The arithmetic of `scaling table`: power laws."""

import math
import statistics
from dataclasses import dataclass

SMALLEST = 0.1
"""MB below which memory cannot be told apart from none."""


@dataclass(frozen=True)
class Law:
    """y = c x^exponent.

    Attributes:
        exponent: slope of the least squares line through (log x, log y).
        last: slope between the two largest x; what holds past them, where a constant share hides it at the start.
    """

    exponent: float
    last: float

    def __str__(self) -> str:
        return f"{self.exponent:.2f} ({self.last:.2f})"


def law(xs: list[float], ys: list[float]) -> Law:
    """Of at least two points with x > 0, in order of x."""
    logs = [[math.log(max(v, SMALLEST * 1e-6)) for v in values] for values in (xs, ys)]
    slope = statistics.linear_regression(*logs).slope
    (x, right), (y, top) = (v[-2:] for v in logs)
    return Law(slope, (top - y) / (right - x))
