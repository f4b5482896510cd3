"""Rows that fire rarely on data in [0, 1]: the trap weights of "When the Curious Abandon Honesty", Algorithm 1."""

from dataclasses import dataclass
from itertools import pairwise
from math import exp, log

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn

KNOWN_SCALES = ((28 * 28, 0.7), (3 * 32 * 32, 0.95), (3 * 224 * 224, 0.99))
"""Length of a row and the best scale: MNIST, CIFAR-10 and ImageNet in the paper (Table 4)."""


@dataclass(frozen=True)
class TrapRows:
    """Rows w = negative + s * positive, where s is still open.

    Attributes:
        negative: minus |N(0, sigma)| at a random half of each row, else 0.
        positive: the same numbers without their sign, shuffled, at the other half, else 0.
    """

    negative: Float[Tensor, "rows d"]
    positive: Float[Tensor, "rows d"]

    def at(self, scale: float) -> Float[Tensor, "rows d"]:
        """The rows for one scale."""
        return self.negative + scale * self.positive

    def tuned(self, units: Float[Tensor, "n d"], share: float) -> float:
        """The scale, at most 1, at which a row fires for this share of the examples, on average over rows.

        A row fires where negative . x + s * positive . x > 0, so each row and example has its own limit of s,
        and the wanted scale is a quantile of the limits.

        Args:
            units: public examples, in [0, 1].
            share: above 0, below 1.
        """
        limit = -(units @ self.negative.T) / (units @ self.positive.T).clamp_min(1e-12)
        ordered = limit.flatten().sort().values
        return min(1.0, float(ordered[min(len(ordered) - 1, int(share * len(ordered)))]))


def draw_rows(rows: int, length: int, sigma: float, rng: torch.Generator, like: Tensor) -> TrapRows:
    """Draws the rows of Algorithm 1; of an odd length one place of each row stays 0.

    Args:
        rows: how many.
        length: of each.
        sigma: standard deviation of the normal numbers.
        rng: on the CPU.
        like: gives device and dtype.
    """
    half = length // 2
    negative, positive = like.new_zeros(rows, length), like.new_zeros(rows, length)
    for row in range(rows):  # one by one: permutations of all rows at once would not fit for large pictures
        size = sigma * randn((half,), rng, like).abs()
        place = torch.randperm(length, generator=rng).to(like.device)
        negative[row, place[:half]] = -size
        positive[row, place[half : 2 * half]] = size[torch.randperm(half, generator=rng).to(like.device)]
    return TrapRows(negative, positive)


def default_scale(length: int) -> float:
    """The paper's best scale for rows of about this length, interpolated in log(length) and log(1 - s)."""
    if length <= KNOWN_SCALES[0][0]:
        return KNOWN_SCALES[0][1]
    for (short, low), (long, high) in pairwise(KNOWN_SCALES):
        if length <= long:
            share = log(length / short) / log(long / short)
            return 1 - exp((1 - share) * log(1 - low) + share * log(1 - high))
    return KNOWN_SCALES[-1][1]
