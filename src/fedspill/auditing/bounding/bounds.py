"""What no attack beats on the updates of a plan.

Epsilon and the bound on reconstruction are of one client's update as the server gets it, by itself, under any model
that it sends; averaging over clients is not counted on. The error floor and identifiability are of the plan's own model
and first update.
"""

import time
from dataclasses import dataclass

import torch

from fedspill.auditing.bounding.chain import chain_of, examples_of_a_client
from fedspill.auditing.resolving.scenario import Scenario, prepare
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import stream
from fedspill.plan.sections import AuditPlan
from fedspill.privacy.accounting import Spent, spent
from fedspill.privacy.fisher import ErrorFloor, error_floor
from fedspill.privacy.identifiability import MOST_COLUMNS, Identifiability, identifiability
from fedspill.privacy.jacobian import Jacobian, UpdateOfInputs
from fedspill.privacy.reconstruction import PRIORS, GaussianPrior, Robustness, psnr_ceiling, robustness
from fedspill.privacy.release import Chain

CHANCE = 0.01
"""With which a PSNR may be exceeded."""


@dataclass(frozen=True)
class Assumed:
    """What is assumed of private images where a bound needs a prior: all values normal and independent.

    Attributes:
        centre: mean of every pixel, in [0, 1].
        spread: standard deviation of every pixel.
        draws: batches drawn for the mean information.

    Raises:
        BadInput: spread not above 0, or no draw.
    """

    centre: float = 0.5
    spread: float = 0.25
    draws: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.spread < 10 or not 0 <= self.centre <= 1 or self.draws < 1:
            raise BadInput(
                f"spread={self.spread}, centre={self.centre}, draws={self.draws}: above 0, in [0, 1] and at least 1"
                " are needed"
            )


@dataclass(frozen=True)
class PlanBounds:
    """The bounds of a plan; what is None has its reason.

    Attributes:
        chain: what the defences come to.
        rounds: releases of one client that are counted.
        examples: behind the update whose model-bound figures these are.
        spent: epsilon.
        success: reconstruction robustness for three priors.
        psnr: of one image, that is exceeded with probability `CHANCE` at most, in dB; for the assumed prior.
        floor: on the mean squared error over an update's images, for the assumed prior.
        floor_reason: why there is no floor.
        identifiable: the spectrum without noise.
        identifiable_reason: why there is none.
        assumed: the prior.
    """

    chain: Chain
    rounds: int
    examples: int
    spent: Spent | None
    success: tuple[Robustness, ...]
    psnr: float | None
    floor: ErrorFloor | None
    floor_reason: str
    identifiable: Identifiability | None
    identifiable_reason: str
    assumed: Assumed


def plan_bounds(
    plan: AuditPlan, device: torch.device, assumed: Assumed | None = None, seconds: float = 60.0
) -> PlanBounds:
    """The bounds of a plan.

    Args:
        plan: whose attacks are not run.
        device: where the model goes.
        assumed: of private images.
        seconds: given to the spectrum of the update's Jacobian; it is not begun where it would take longer.

    Raises:
        BadInput: the plan cannot be resolved, or a library is missing, or seconds are not above 0.
    """
    if not seconds > 0:
        raise BadInput(f"seconds={seconds} must be above 0")
    return bounds_of(prepare(plan, device), assumed or Assumed(), seconds)


def bounds_of(scenario: Scenario, assumed: Assumed, seconds: float) -> PlanBounds:
    """The bounds of a plan that is resolved; arguments as of `plan_bounds`."""
    chain = chain_of(scenario)
    release = chain.release
    rounds = scenario.releases
    success = () if release is None else tuple(robustness(release, prior, rounds=rounds) for prior in PRIORS)
    floor, why_no_floor = _floor(scenario, chain, assumed, rounds)
    told, why_not = _identifiable(scenario, seconds)
    return PlanBounds(
        chain=chain,
        rounds=rounds,
        examples=examples_of_a_client(scenario),
        spent=None if release is None else spent(release, rounds=rounds),
        success=success,
        psnr=_psnr(scenario, success, assumed),
        floor=floor,
        floor_reason=why_no_floor,
        identifiable=told,
        identifiable_reason=why_not,
        assumed=assumed,
    )


def _psnr(scenario: Scenario, success: tuple[Robustness, ...], assumed: Assumed) -> float | None:
    spec = scenario.model.input
    if not isinstance(spec, ImageSpec) or not success or success[0].mu is None:
        return None
    size = spec.shape[0] * spec.shape[1] * spec.shape[2]
    return psnr_ceiling(GaussianPrior(size, assumed.spread), success[0].mu, CHANCE)


def _function(scenario: Scenario, clip: float | None) -> UpdateOfInputs:
    private = scenario.private(0)[: examples_of_a_client(scenario)]
    training = scenario.clients.drawing(0, scenario.seeds[0])
    return UpdateOfInputs(scenario.model, private, training, clip)


def _floor(scenario: Scenario, chain: Chain, assumed: Assumed, rounds: int) -> tuple[ErrorFloor | None, str]:
    spec = scenario.model.input
    if chain.noise is None:
        return None, "no Gaussian noise of a known size covers the whole update"
    if not isinstance(spec, ImageSpec):
        return None, "it is told in PSNR, of images"
    if rounds > 1:
        return None, "it is of one update; over rounds the model changes, and a server chooses it"
    try:
        function = _function(scenario, chain.clip)
        prior = GaussianPrior(function.inputs().numel(), assumed.spread)
        rng = stream(scenario.seeds[0], "bounds", "fisher")
        return error_floor(function, prior, chain.noise, rng, centre=assumed.centre, draws=assumed.draws), ""
    except NotApplicable as reason:
        return None, str(reason)


def _identifiable(scenario: Scenario, seconds: float) -> tuple[Identifiability | None, str]:
    if scenario.defences:
        return None, "it is of updates that no defence changes"
    try:
        function = _function(scenario, None)
        if (values := function.inputs().numel()) > MOST_COLUMNS:
            return None, f"it is computed of at most {MOST_COLUMNS:,} values of inputs; the update is of {values:,}"
        found = function.jacobian(function.inputs())
    except NotApplicable as reason:
        return None, str(reason)
    if (expected := _cost(found)) > seconds:
        return None, f"its {values:,} products would take about {expected:,.0f} s here, and {seconds:g} s are given"
    return identifiability(found), ""


def _cost(found: Jacobian) -> float:
    """Seconds that the products for the spectrum take, by the second of two."""
    probe = torch.ones(found.columns, dtype=found.update.dtype, device=found.update.device)
    pairs = 1 if found.small else 2
    one = 0.0
    for _ in range(2):
        began = time.perf_counter()
        found.back(found.forward(probe))
        one = time.perf_counter() - began
    return one / 2 * pairs * (min(found.rows, found.columns) if found.small else found.columns)
