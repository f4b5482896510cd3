"""The bounds that an audit holds against its policy: those that need the defences alone, in closed form.

They hold of every model that a server may send, and so of every attack and role; what needs the plan's own model
(the error floor, identifiability) is told by `fedspill bounds` alone.
"""

import math

from fedspill.auditing.bounding.bounds import CHANCE, Assumed
from fedspill.auditing.bounding.chain import chain_of
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import Knows
from fedspill.plan.sections import PolicySection
from fedspill.privacy.accounting import spent
from fedspill.privacy.reconstruction import PRIORS, GaussianPrior, psnr_ceiling, robustness
from fedspill.privacy.release import Release
from fedspill.report.bounds import Bounds, ImageCeiling, Privacy, SuccessBound


def recorded_bounds(scenario: Scenario) -> Bounds | None:
    """What is bounded of a plan's updates; None where nobody asked: no defence, no prior, no bound required."""
    policy = scenario.policy
    if not scenario.defences and policy.prior is None and not policy.require_bound:
        return None
    start = Bounds(rounds=scenario.releases, prior=policy.prior, max_success=policy.max_success)
    try:
        release, missing = _release(scenario)
        bounds = (
            start.model_copy(update={"missing": missing}) if release is None else _bounded(scenario, start, release)
        )
    except BadInput as reason:  # a library is missing, or a defence of somebody else's says what cannot be
        bounds = start.model_copy(update={"missing": str(reason)})
    return bounds.model_copy(update={"short": _short(bounds, policy)})


def _release(scenario: Scenario) -> tuple[Release | None, str]:
    if scenario.captured:
        return None, "the update was sent by another trainer, of whose defences nothing is known here"
    if Knows.BN_STATISTICS in scenario.knows:
        return None, "the server is granted the BatchNorm statistics of the private batch, which no noise covers"
    chain = chain_of(scenario)
    return chain.release, chain.reason


def _bounded(scenario: Scenario, start: Bounds, release: Release) -> Bounds:
    rounds, policy = start.rounds, scenario.policy
    rows = [robustness(release, prior, rounds=rounds) for prior in PRIORS]
    own = None if policy.prior is None else robustness(release, policy.prior, rounds=rounds).success
    privacy, why = _privacy(release, rounds)
    return start.model_copy(
        update={
            "unit": release.unit,
            "mu": rows[0].mu,
            "privacy": privacy,
            "privacy_missing": why,
            "policy_success": own,
            "success": [SuccessBound(prior=r.prior, success=r.success, how=r.how) for r in rows],
            "image": _image(scenario, rows[0].mu),
        }
    )


def _privacy(release: Release, rounds: int) -> tuple[Privacy | None, str]:
    try:
        told = spent(release, rounds=rounds)
    except BadInput as reason:
        return None, str(reason)
    if not math.isfinite(told.epsilon):
        return None, f"no finite epsilon at delta {told.delta:g} could be counted"
    words = {"unit": release.unit, "relation": release.relation, "sentence": told.sentence}
    return Privacy(epsilon=told.epsilon, delta=told.delta, **words), ""


def _image(scenario: Scenario, mu: float | None) -> ImageCeiling | None:
    spec, assumed = scenario.model.input, Assumed()
    if mu is None or not isinstance(spec, ImageSpec):
        return None
    psnr = psnr_ceiling(GaussianPrior(math.prod(spec.shape), assumed.spread), mu, CHANCE)
    told = psnr if math.isfinite(psnr) else None
    return ImageCeiling(psnr=told, chance=CHANCE, centre=assumed.centre, spread=assumed.spread)


def _short(bounds: Bounds, policy: PolicySection) -> str:
    if bounds.missing:
        return bounds.missing
    if bounds.policy_success is None:
        return "the policy states no prior to hold one against (policy.prior)"
    if bounds.policy_success > policy.max_success:
        return (
            f"any attacker's success is bounded by {bounds.policy_success:.3g} at prior {policy.prior:g}; the policy"
            f" accepts {policy.max_success:g}"
        )
    return ""
