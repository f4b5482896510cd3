"""Is there noise in what leaves, how large is it, what law does it follow, and is it drawn anew each time.

Everything here is of pairs of answers to one and the same update, so that no clipping and no rounding comes in between.
Tests are by SciPy; every threshold is a false alarm in a million chains or fewer.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from fedspill.core.types import Params

CHANCE = 1e-6
"""Of a false alarm of one test."""
LAWS = {"Gaussian": "norm", "Laplace": "laplace", "uniform": "uniform"}
ENOUGH = 50
"""Values below which no law is told."""
SAME = 0.9999
"""Correlation of the noise of two tensors above which it is one and the same."""
FIRST = 8
"""Values of two tensors that are compared: as many independent ones agree by chance once in 1e12 tries."""
ROUNDING = 8
"""Units in the last place that arithmetic on a value may cost."""


def floor(value: Tensor, weight: Tensor | None = None) -> float:
    """The size of what may be rounding.

    Args:
        value: what was pushed, or what left.
        weight: to which it was added on its way, if it was.
    """
    if not value.is_floating_point() or not value.numel():
        return 0.0
    largest = float(value.abs().max()) + (0.0 if weight is None else float(weight.abs().max()))
    return ROUNDING * torch.finfo(value.dtype).eps * largest


def stack(answers: Sequence[Params], name: str) -> Tensor:
    """One tensor of every answer, in double precision: (pushes, values)."""
    return torch.stack([a[name].detach().double().flatten() for a in answers])


def spread(values: Tensor, least: float) -> tuple[float, float]:
    """Standard deviation of what differs between pushes, and the share of the values that differ at all.

    Args:
        values: (pushes, values).
        least: differences up to here are rounding.
    """
    if len(values) < 2 or not values.shape[1]:
        return 0.0, 0.0
    differs = (values.amax(0) - values.amin(0)) > least
    pairs = values[: len(values) // 2 * 2].unflatten(0, (-1, 2))
    std = float((pairs[:, 0] - pairs[:, 1]).square().mean().div(2).sqrt())
    return (std if bool(differs.any()) else 0.0), float(differs.double().mean())


def below(measured: float, declared: float, values: int) -> bool:
    """Whether noise of the declared standard deviation would hardly ever look so small.

    Args:
        values: independent differences behind the measurement.
    """
    limit = float(stats.chi2.ppf(CHANCE, values)) / values
    return measured**2 < declared**2 * min(limit, 0.99)


def law(noise: Sequence[Tensor]) -> str:
    """The law that the noise follows, each tensor's in its own unit; "" where there is too little to tell.

    By Kolmogorov and Smirnov against the three that clients use; the one of the smallest distance, unless it is
    rejected.
    """
    units = [(v / v.std()).cpu().numpy() for v in noise if v.numel() >= ENOUGH and float(v.std()) > 0]
    if not units:
        return ""
    values, width = np.concatenate(units)[:100_000], 12**0.5
    frames = {"norm": (0, 1), "laplace": (0, 0.5**0.5), "uniform": (-width / 2, width)}
    tests = {name: stats.kstest(values, which, args=frames[which]) for name, which in LAWS.items()}
    best = min(tests, key=lambda name: tests[name].statistic)
    # Units are estimated from the values themselves, which makes the test milder, not stricter.
    return best if tests[best].pvalue > CHANCE else "neither of these"


def shared(noise: dict[str, Tensor]) -> list[tuple[str, str]]:
    """Pairs of tensors whose noise is one and the same, up to a factor."""
    heads = {k: v[:FIRST] - v[:FIRST].mean() for k, v in noise.items() if v.numel() >= FIRST}
    heads = {k: v / v.norm() for k, v in heads.items() if float(v.norm()) > 0}
    return [(a, b) for a, b in combinations(heads, 2) if abs(float(heads[a] @ heads[b])) > SAME]


def is_constant(first: Tensor, second: Tensor, pushed: Tensor) -> bool:
    """Whether two answers to a tiny update are one and the same noise.

    They are equal, far larger than what was pushed, do not point its way, and are no few levels of a quantiser.
    """
    if not torch.equal(first, second) or first.numel() < FIRST:
        return False
    size, tiny = float(first.norm()), float(pushed.norm())
    if size <= 10 * tiny or tiny == 0:
        return False
    aligned = abs(float(first @ pushed)) / (size * tiny)
    return aligned < 0.5 and len(first.unique()) > first.numel() / 2
