"""What releases cost together: epsilon, always with its unit, its relation, its sensitivity and its delta.

Gaussian noise on all data is one Gaussian release at sigma / sqrt(T), in closed form. With Poisson subsampling
dp-accounting composes privacy loss distributions, or Renyi divergences (Mironov 2017, arXiv:1702.07476). Laplace noise
on many values is taken as what it is proven to be whatever the shift: sensitivity / scale, with delta = 0; sampling at
rate q makes ln(1 + q (e^epsilon - 1)) of that (Li, Qardaji and Su 2012).
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fedspill.core.errors import BadInput
from fedspill.privacy.gaussian import analytic_epsilon
from fedspill.privacy.libraries import library
from fedspill.privacy.release import Release

Accountant = Literal["pld", "rdp"]

FINEST, STEPS = 1e-4, 2e6
"""Step of the grid of privacy losses, and how many are afforded; coarser steps round against the client."""
TAIL = 16.0
"""Standard deviations of the privacy loss that the grid covers."""


@dataclass(frozen=True)
class Spent:
    """What releases cost together.

    Attributes:
        epsilon: infinite where the accountant can tell none.
        delta: the failure probability of all releases together.
        release: one of them, with unit, relation, sensitivity and noise.
        rounds: T, how many there are, with independent noise.
        sampling: probability of a unit to be in each, unknown to the attacker; 1 is always.
        accountant: who counted: "closed form", "pld" or "rdp".
    """

    epsilon: float
    delta: float
    release: Release
    rounds: int
    sampling: float
    accountant: str

    @property
    def sentence(self) -> str:
        """All that epsilon means nothing without."""
        release, times = self.release, "1 release" if self.rounds == 1 else f"{self.rounds} releases"
        sampled = "" if self.sampling == 1 else f", sampled at {self.sampling:g} unknown to the attacker"
        return (
            f"epsilon {self.epsilon:.4g} at delta {self.delta:g} for one {release.unit} ({release.relation},"
            f" sensitivity {release.sensitivity:.4g}, {release.distribution} noise of {release.noise:.4g} on every"
            f" value; {times}{sampled}; {self.accountant})"
        )


def spent(
    release: Release,
    *,
    rounds: int = 1,
    sampling: float = 1.0,
    delta: float | None = None,
    accountant: Accountant = "pld",
) -> Spent:
    """What `rounds` such releases cost.

    Args:
        release: one of them.
        rounds: how many, each with noise of its own; models may be chosen by what came before.
        sampling: probability with which a unit takes part, drawn anew for each, and kept from the attacker; a server
            that asks the clients itself knows who took part: then it is 1.
        delta: of all together; None takes the release's.
        accountant: where no closed form does.

    Raises:
        BadInput: a value out of range; subsampling under replacement; or dp-accounting is missing.
    """
    check(release, rounds, sampling)
    total = release.delta if delta is None else delta
    if not 0 < total < 1:
        raise BadInput(f"delta={total} must lie between 0 and 1")
    if release.distribution == "gaussian" and sampling == 1 and accountant == "pld":
        epsilon, by = analytic_epsilon(release.multiplier / math.sqrt(rounds), total), "closed form"
    elif release.distribution == "laplace" and rounds == 1:
        epsilon, by = pure_epsilon(release, sampling), "closed form"
    elif accountant == "rdp":
        epsilon, by = _renyi(release, rounds, sampling, total), "rdp"
    else:
        epsilon, by = float(loss_distribution(release, rounds, sampling).get_epsilon_for_delta(total)), "pld"
    return Spent(epsilon, total, release, rounds, sampling, by)


def check(release: Release, rounds: int, sampling: float) -> None:
    """Raises BadInput if such releases cannot be counted."""
    if rounds < 1:
        raise BadInput(f"rounds={rounds}: at least 1 release is needed")
    if not 0 < sampling <= 1:
        raise BadInput(f"sampling={sampling} must be above 0 and at most 1")
    if sampling < 1 and release.relation == "replacement":
        raise BadInput("subsampling is accounted with relation='add-or-remove'; 'replacement' was got")


def pure_epsilon(release: Release, sampling: float = 1.0) -> float:
    """Epsilon at delta = 0 of one release with Laplace noise."""
    whole = 1 / release.multiplier
    return whole if sampling == 1 else whole + math.log(sampling + (1 - sampling) * math.exp(-whole))


@lru_cache(maxsize=16)
def loss_distribution(release: Release, rounds: int = 1, sampling: float = 1.0) -> Any:
    """The privacy loss distribution of all releases together, of dp-accounting; rounded against the client.

    Raises:
        BadInput: dp-accounting is missing.
    """
    losses = library("dp_accounting.pld.privacy_loss_distribution")
    if release.distribution == "laplace":
        epsilon = pure_epsilon(release, sampling)
        parameters = library("dp_accounting.pld.common").DifferentialPrivacyParameters(epsilon, 0.0)
        one = losses.from_privacy_parameters(parameters, value_discretization_interval=_grid(epsilon * rounds))
        return one.self_compose(rounds)
    mu = 1 / release.multiplier
    if sampling == 1:
        return losses.from_gaussian_mechanism(
            release.multiplier / math.sqrt(rounds), value_discretization_interval=_grid(_span(mu * math.sqrt(rounds)))
        )
    one = losses.from_gaussian_mechanism(
        release.multiplier, sampling_prob=sampling, value_discretization_interval=_grid(_span(mu) * math.sqrt(rounds))
    )
    return one.self_compose(rounds)


def _span(mu: float) -> float:
    return mu**2 / 2 + TAIL * mu


def _grid(span: float) -> float:
    return max(FINEST, span / STEPS)


def _renyi(release: Release, rounds: int, sampling: float, delta: float) -> float:
    if release.distribution == "laplace":
        raise BadInput("accountant='rdp' is of Gaussian noise; for Laplace noise 'pld' is needed")
    dp = library("dp_accounting")
    event = dp.GaussianDpEvent(release.multiplier)
    event = event if sampling == 1 else dp.PoissonSampledDpEvent(sampling, event)
    accountant = library("dp_accounting.rdp").RdpAccountant()
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))
