"""Local differential privacy of one update: clip the whole of it, then add Gaussian noise.

As in Maui (Dabholkar et al. 2025, arXiv:2509.11451), section 7.4.2. The noise is that of the analytic Gaussian
mechanism: Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy", ICML 2018, arXiv:1805.06530.
The classical sqrt(2 ln(1.25 / delta)) / epsilon is proven for epsilon < 1 only, and too small from about 10 on.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import torch
from scipy.optimize import root_scalar
from scipy.special import log_ndtr

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Update
from fedspill.privacy.mechanisms import clipped, noised

Relation = Literal["add-or-remove", "replacement"]
Sensitivity = Literal["replace", "add_remove"]
RELATIONS: dict[Sensitivity, Relation] = {"replace": "replacement", "add_remove": "add-or-remove"}

USUAL_EPSILON = 8.0

UNITS: dict[Relation, str] = {
    "replacement": "any two sets of private data behind one client's update (replacement: 2 x clip apart)",
    "add-or-remove": "one client's update and none (an update of 0; add or remove: 1 x clip apart)",
}


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


@dataclass(frozen=True)
class LocalDP:
    """Clips the update to `clip` and adds noise of sigma times the sensitivity to every value.

    Two conventions of what noise of "1" is differ by a factor of 2. Opacus' `noise_multiplier` is the standard
    deviation over `clip`, and its accountant compares data with and without one record ("add-or-remove"). `sigma` is
    over the sensitivity, which is 2 `clip` where records are replaced. In both, the record here is all that stands
    behind one client's update, not one example.

    The client's BatchNorm statistics, which no noise covers, are not sent. The noise is drawn in float32 from a seeded
    stream: right for an audit, not for a release (Mironov 2012).

    Attributes:
        clip: C, the longest Euclidean norm of the whole update, in the update's unit.
        epsilon: what one update costs; without it, sigma and noise_multiplier, 8.
        delta: the failure probability of one update, in (0, 1).
        sensitivity: how far two updates can lie apart: "replace" is 2 C, the local model; "add_remove" is C. The older
            word for `relation`, which goes before it; not asked with noise_multiplier.
        sigma: standard deviation of the noise over the sensitivity, instead of epsilon.
        noise_multiplier: standard deviation of the noise over C, as Opacus counts, instead of epsilon and sigma.
        relation: which pairs of updates epsilon is about: "add-or-remove" or "replacement"; None takes "add-or-remove"
            with noise_multiplier, else what `sensitivity` says.

    Raises:
        BadInput: two of epsilon, sigma and noise_multiplier given, relation and sensitivity contradict each other, or a
            value out of range.
    """

    clip: float = 1.0
    epsilon: float | None = None
    delta: float = 1e-5
    sensitivity: Sensitivity = "replace"
    sigma: float | None = None
    noise_multiplier: float | None = None
    relation: Relation | None = None

    def __post_init__(self) -> None:
        sizes = {"epsilon": self.epsilon, "sigma": self.sigma, "noise_multiplier": self.noise_multiplier}
        given = [f"{name}={value}" for name, value in sizes.items() if value is not None]
        if len(given) > 1:
            raise BadInput(f"{' and '.join(given)} were got; one follows from the other")
        if self.relation == "replacement" and self.sensitivity == "add_remove":
            raise BadInput("relation='replacement' and sensitivity='add_remove' were got; they contradict each other")
        for name, value in {"clip": self.clip, **sizes}.items():
            if value is not None and not 0 < value < math.inf:
                raise BadInput(f"{name}={value} must be above 0 and finite")
        if not 0 < self.delta < 1:
            raise BadInput(f"delta={self.delta} must lie between 0 and 1")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost:
        """What one update costs."""
        sigma = self._sigma()
        epsilon = self._epsilon() if sigma is None else analytic_epsilon(sigma, self.delta)
        return PrivacyCost(epsilon, self.delta, UNITS[self.compared()], self.noise())

    def known(self, model: Model) -> KnownDefence:
        """How large the noise is; the clipping leaves the direction."""
        return KnownDefence(names=("local_dp",), noise=self.noise(), scale_free=True)

    def noise(self) -> float:
        """Standard deviation of the noise on every value, in the update's unit."""
        if self.noise_multiplier is not None:
            return self.noise_multiplier * self.clip
        sigma = analytic_sigma(self._epsilon(), self.delta) if self.sigma is None else self.sigma
        return sigma * self.clip * self._clips_apart()

    def compared(self) -> Relation:
        """Which pairs of updates the cost is about."""
        usual = RELATIONS[self.sensitivity] if self.noise_multiplier is None else "add-or-remove"
        return self.relation or usual

    def _clips_apart(self) -> int:
        return 2 if self.compared() == "replacement" else 1

    def _sigma(self) -> float | None:
        """Standard deviation over the sensitivity, if it is given."""
        return self.sigma if self.noise_multiplier is None else self.noise_multiplier / self._clips_apart()

    def _epsilon(self) -> float:
        return USUAL_EPSILON if self.epsilon is None else self.epsilon

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        return replace(noised(clipped(update, self.clip), self.noise(), "gaussian", rng), buffers=None)


CARD: Card[Defence] = Card(
    title="Local differential privacy",
    paper="Dabholkar et al. 2025, arXiv:2509.11451, section 7.4.2; Balle and Wang, ICML 2018, arXiv:1805.06530",
    summary="Clips the whole update and adds the Gaussian noise that one release at (epsilon, delta) needs.",
    presets={
        "paper": LocalDP(),
        "quick": LocalDP(),
        "strong": LocalDP(epsilon=1.0),
        "weak": LocalDP(epsilon=1000.0),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
