"""How often any attacker can rebuild, at most: the reconstruction robustness of a noisy release.

Balle, Cherubin and Hayes 2022 (arXiv:2201.04845); Hayes, Mahloujifar and Balle 2023 (arXiv:2302.07225). Whoever guesses
without the release is right with probability `prior` at most. With it he is right with probability 1 - f(prior) at
most, where f is the trade-off curve between the release and the release of nobody; for Gaussian noise that is
Phi(Phi^-1(prior) + mu), mu = reach / noise, and T releases have sqrt(T) mu. What is compared is a release with that of
nobody, an update of 0: so mu counts the reach once, whatever pairs epsilon is about. What is bounded is the mean over
the prior, whatever the network, the server's model and the attack; no more than the prior is assumed.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar, root_scalar
from scipy.special import gammainc, gammaln, log_ndtr, ndtri_exp

from fedspill.core.errors import BadInput
from fedspill.privacy.accounting import check, loss_distribution, pure_epsilon
from fedspill.privacy.libraries import library
from fedspill.privacy.release import Release

PRIORS = (0.1, 1e-3, 1e-6)
"""What a guess without the release is right with: one of ten candidates, one of a thousand, one of a million."""
TINY = 1e-200
"""Below this a probability is computed by its logarithm."""
LOWEST = -30.0
"""Epsilon from which on the tangents are searched."""
HIGHEST = 400.0
"""PSNR in dB that nothing in float32 reaches."""


@dataclass(frozen=True)
class Robustness:
    """A bound on any attacker's success.

    Attributes:
        prior: probability of being right without any release.
        success: with the releases, at most.
        mu: of all Gaussian releases together; None where they have none, as with subsampling or Laplace noise.
        how: in words.
    """

    prior: float
    success: float
    mu: float | None
    how: str


def gaussian_success(prior: float, mu: float) -> float:
    """Phi(Phi^-1(prior) + mu).

    Raises:
        BadInput: prior not in (0, 1), or mu below 0.
    """
    _check_prior(prior)
    if not mu >= 0:
        raise BadInput(f"mu={mu} must be at least 0")
    return math.exp(_log_success(math.log(prior), mu))


def _log_success(log_prior: float, mu: float) -> float:
    return float(log_ndtr(float(ndtri_exp(log_prior)) + mu))


def pure_success(prior: float, epsilon: float) -> float:
    """The bound of epsilon-differential privacy with delta = 0: min(prior e^epsilon, 1 - (1 - prior) e^-epsilon).

    Raises:
        BadInput: prior not in (0, 1).
    """
    _check_prior(prior)
    exponent = min(epsilon, -math.log(prior))
    return min(prior * math.exp(exponent), 1 - (1 - prior) * math.exp(-epsilon))


def robustness(release: Release, prior: float, *, rounds: int = 1, sampling: float = 1.0) -> Robustness:
    """The bound for `rounds` releases of one unit.

    Args:
        release: one of them.
        prior: what a guess without any is right with, at most; in (0, 1).
        rounds: how many, each with noise of its own.
        sampling: probability with which the unit is in each, unknown to the attacker.

    Raises:
        BadInput: a value out of range; or a library is missing that subsampling, or Laplace noise over rounds, needs.
    """
    _check_prior(prior)
    alone = replace(release, relation="add-or-remove")
    check(alone, rounds, sampling)
    if release.distribution == "gaussian" and sampling == 1:
        mu = math.sqrt(rounds) / alone.multiplier
        return Robustness(prior, gaussian_success(prior, mu), mu, "Phi(Phi^-1(prior) + mu)")
    if release.distribution == "laplace" and rounds == 1:
        return Robustness(prior, pure_success(prior, pure_epsilon(alone, sampling)), None, "by epsilon, delta = 0")
    most = max(
        _by_profile(alone, prior, rounds, sampling), 1 - trade_off(alone, prior, rounds=rounds, sampling=sampling)
    )
    return Robustness(prior, min(1.0, most), None, "trade-off curve of the privacy loss distribution")


def _by_profile(release: Release, prior: float, rounds: int, sampling: float) -> float:
    """The least of delta(epsilon) + e^epsilon prior, which is the trade-off curve by its tangents.

    Any of them is a bound, so that this one holds however the minimum is searched.
    """
    profile = loss_distribution(release, rounds, sampling)

    def tangent(epsilon: float) -> float:
        return float(profile.get_delta_for_epsilon(epsilon)) + math.exp(epsilon) * prior

    ends = (LOWEST, -math.log(prior))
    least: Any = minimize_scalar(tangent, bounds=ends, method="bounded", options={"xatol": 1e-9})
    return float(least.fun)


def trade_off(release: Release, alpha: float, *, rounds: int = 1, sampling: float = 1.0) -> float:
    """The rate of false negatives at a rate of false positives `alpha`, by dp-accounting and riskcal.

    riskcal 1.5.1 reads the curve off the grid of privacy losses, up to 8e-5 above the exact one; `robustness` therefore
    takes the weaker of this and of what the tangents say.

    Raises:
        BadInput: a value out of range, or a library is missing.
    """
    _check_prior(alpha)
    check(release, rounds, sampling)
    found = library("riskcal.analysis").get_beta_from_pld(loss_distribution(release, rounds, sampling), alpha)
    return min(1 - alpha, max(0.0, float(np.asarray(found))))


def _check_prior(prior: float) -> None:
    if not 0 < prior < 1:
        raise BadInput(f"prior={prior} must lie between 0 and 1")


@dataclass(frozen=True)
class GaussianPrior:
    """What the attacker knows before: all values of a record independent, normal about a mean that he knows.

    Attributes:
        size: values of what is to be rebuilt.
        spread: standard deviation of each, where the values lie in [0, 1] for PSNR.

    Raises:
        BadInput: one of them is not above 0.
    """

    size: int
    spread: float

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.spread < math.inf:
            raise BadInput(f"size={self.size} and spread={self.spread} must be above 0 and finite")

    def log_guess(self, psnr: float) -> float:
        """Logarithm of the probability that a guess of the mean, which is the best one, has at least this PSNR."""
        half, at = self.size / 2, self.size / 2 * 10 ** (-psnr / 10) / self.spread**2
        inside = float(gammainc(half, at))
        if inside > TINY or at >= half:
            return math.log(inside)
        # the series of the incomplete gamma function is at most geometric
        return half * math.log(at) - at - float(gammaln(half + 1)) - math.log1p(-at / (half + 1))


def psnr_success(psnr: float, prior: GaussianPrior, mu: float) -> float:
    """Probability of any attacker to reach this PSNR, at most: that of the best guess, raised by mu.

    Args:
        psnr: in dB, of values in [0, 1].
        prior: of the record; its best guess is the mean (Anderson 1955).
        mu: of all releases together.
    """
    return math.exp(_log_success(min(prior.log_guess(psnr), -1e-300), mu))


def psnr_ceiling(prior: GaussianPrior, mu: float, chance: float = 0.01) -> float:
    """PSNR in dB that no attacker reaches with a higher probability than `chance`; infinite above 400 dB.

    Raises:
        BadInput: chance is not in (0, 1), or mu below 0.
    """
    _check_prior(chance)
    if not mu >= 0:
        raise BadInput(f"mu={mu} must be at least 0")

    def above(psnr: float) -> float:
        return psnr_success(psnr, prior, mu) - chance

    low = -10 * math.log10(prior.spread**2) - 20.0
    if above(HIGHEST) > 0:
        return math.inf
    return root_scalar(above, bracket=(low - 200.0, HIGHEST), method="brentq", xtol=1e-6).root
