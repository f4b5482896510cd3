"""One release with Gaussian noise: what epsilon it costs, and what noise an epsilon needs.

The analytic Gaussian mechanism: Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018,
arXiv:1805.06530. The classical sqrt(2 ln(1.25 / delta)) / epsilon is proven for epsilon < 1 only, and too small from
about 10 on. T releases at noise sigma are one at sigma / sqrt(T) (Dong, Roth and Su 2022, arXiv:1905.02383).
"""

import math
from collections.abc import Callable
from functools import cache

from scipy.optimize import root_scalar
from scipy.special import log_ndtr


def log_delta(sigma: float, epsilon: float) -> float:
    """Logarithm of the smallest delta for a sensitivity of 1 (Balle and Wang 2018, Theorem 8).

    delta = Phi(1 / (2 sigma) - epsilon sigma) - exp(epsilon) Phi(-1 / (2 sigma) - epsilon sigma), where the factor
    overflows unless it is taken into the logarithm.
    """
    low, high = -0.5 / sigma - epsilon * sigma, 0.5 / sigma - epsilon * sigma
    whole, subtracted = float(log_ndtr(high)), epsilon + float(log_ndtr(low))
    return whole + math.log1p(-math.exp(subtracted - whole)) if subtracted < whole else -math.inf


@cache
def analytic_sigma(epsilon: float, delta: float) -> float:
    """The smallest standard deviation for a sensitivity of 1, to 12 digits."""
    return math.exp(_root(lambda t: log_delta(math.exp(t), epsilon) - math.log(delta), -20.0, 30.0))


@cache
def analytic_epsilon(sigma: float, delta: float) -> float:
    """The smallest epsilon that noise of this standard deviation gives for a sensitivity of 1."""
    if log_delta(sigma, 0.0) <= math.log(delta):
        return 0.0
    most = 0.5 / sigma**2 + math.sqrt(-2 * math.log(delta)) / sigma  # there the first term alone is below delta
    return most * _root(lambda share: log_delta(sigma, most * share) - math.log(delta), 0.0, 1.0)


def _root(f: Callable[[float], float], low: float, high: float) -> float:
    return root_scalar(f, bracket=(low, high), method="bisect", xtol=1e-13).root
