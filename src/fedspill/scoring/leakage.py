"""Statements from values per example: which examples leaked, what share, and how the values are spread."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.roles import Metric
from fedspill.scoring.metrics import capped

QUANTILES = (10, 25, 75, 90)
NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)


class Interval(NamedTuple):
    """A share in [0, 1] with the ends of its 95 % interval."""

    rate: float
    low: float
    high: float


def wilson(hits: int, n: int) -> Interval:
    """The share hits / n with its Wilson score interval, 95 % (Wilson 1927).

    One equation over the standard library's normal quantile, equal to SciPy's `binomtest`: importing scipy.stats takes
    half as long as importing PyTorch, and every audit states a share.

    It treats the examples as independent draws from the audited population; examples of one batch are not
    quite.

    Raises:
        BadInput: n is below 1, or hits lie outside 0 to n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise BadInput(f"{hits} hits of {n} were got; at least 1 example and 0 to n hits are needed")
    rate, spread = hits / n, NORMAL_QUANTILE**2 / n
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    return Interval(rate, centre - half if hits else 0.0, centre + half if hits < n else 1.0)


def leaked(
    values: Mapping[str, Float[Tensor, " n"]],
    thresholds: Mapping[str, float],
    higher_is_closer: Mapping[str, bool],
) -> Bool[Tensor, " n"]:
    """Whether each example meets *all* thresholds; any one of them alone would inflate the rate.

    A value that equals its threshold meets it. An example without a reconstruction (NaN) did not leak by it.

    Args:
        values: per metric, one value per private example.
        thresholds: per metric, in the metric's unit.
        higher_is_closer: per metric, which side of the threshold leaks.

    Raises:
        BadInput: no threshold, or one on a metric that has no values.
    """
    if not thresholds:
        raise BadInput("no leak threshold was got; at least one is needed, e.g. psnr = 20")
    absent = [name for name in thresholds if name not in values]
    if absent:
        raise BadInput(f"leak thresholds on {absent}, which were not computed; computed were {sorted(values)}")
    met = [
        values[name] >= limit if higher_is_closer[name] else values[name] <= limit for name, limit in thresholds.items()
    ]
    return torch.stack(met).all(0)


SSIM_THRESHOLDS = (0.4, 0.5, 0.6)


def reconstruction_rates(
    ssim: Float[Tensor, " n"], thresholds: Sequence[float] = SSIM_THRESHOLDS
) -> dict[float, Interval]:
    """Shares of n private images whose reconstruction reaches each SSIM, as Maui counts successes.

    Dabholkar et al. 2025 (arXiv:2509.11451, section 7.4.2; the paper's threshold is not known). An image without a
    reconstruction (NaN) is none. Other metrics averaged over the successes alone rise as the rate falls.

    Raises:
        BadInput: no image.
    """
    return {limit: wilson(int((ssim >= limit).sum()), len(ssim)) for limit in thresholds}


def criterion(thresholds: Mapping[str, float], metrics: Sequence[Metric]) -> str:
    """What an example must meet to count as leaked, in words: "psnr >= 20 dB and ssim >= 0.6".

    Raises:
        BadInput: a threshold on a metric that is not among `metrics`.
    """
    known = {m.name: m for m in metrics}
    unknown = [name for name in thresholds if name not in known]
    if unknown:
        raise BadInput(f"leak thresholds on {unknown}; the metrics asked for are {sorted(known)}")
    return " and ".join(_condition(known[name], limit) for name, limit in thresholds.items())


def _condition(metric: Metric, limit: float) -> str:
    sign = ">=" if metric.higher_is_closer else "<="
    return f"{metric.name} {sign} {limit:g}" + (" dB" if metric.unit == "dB" else "")


@dataclass(frozen=True)
class Summary:
    """The spread of one metric over the examples that have a value.

    Attributes:
        worst: of the closest reconstruction, which is the worst for the client.
        quantiles: keys "10", "25", "75", "90" (per cent), linearly interpolated.
        capped: how many values stand at the metric's cap.
    """

    mean: float | None = None
    median: float | None = None
    worst: float | None = None
    quantiles: Mapping[str, float] | None = None
    capped: int = 0


def summary(values: Float[Tensor, " n"], higher_is_closer: bool, cap: float | None = None) -> Summary:
    """Summarises values; NaN (no reconstruction) is left out. Without any value every field is None."""
    present = values[~values.isnan()].double()
    if len(present) == 0:
        return Summary()
    levels = present.new_tensor(QUANTILES) / 100
    at = present.quantile(levels)
    return Summary(
        mean=float(present.mean()),
        median=float(present.quantile(0.5)),
        worst=float(present.max() if higher_is_closer else present.min()),
        quantiles={str(q): float(v) for q, v in zip(QUANTILES, at, strict=True)},
        capped=0 if cap is None else capped(present, cap),
    )
