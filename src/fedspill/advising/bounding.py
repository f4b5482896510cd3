"""What no attack beats under a change: of a plan whose defences come to noise of a known size."""

import torch

from fedspill.auditing.bounding.chain import chain_of
from fedspill.auditing.resolving.scenario import prepare
from fedspill.core.errors import FedspillError
from fedspill.plan.sections import AuditPlan
from fedspill.privacy.accounting import spent
from fedspill.privacy.reconstruction import robustness
from fedspill.report.advice import Bound

PRIOR = 1e-3
"""One of a thousand candidates is right."""


def bound_of(plan: AuditPlan, device: torch.device) -> tuple[Bound | None, str]:
    """The bound on a plan's releases of one client, and why there is none."""
    try:
        chain = chain_of(prepare(plan, device))
        if chain.release is None:
            return None, chain.reason
        rounds = 1 if plan.federation is None else plan.federation.rounds
        cost, success = spent(chain.release, rounds=rounds), robustness(chain.release, PRIOR, rounds=rounds)
    except FedspillError as error:
        return None, str(error)
    return Bound(
        epsilon=cost.epsilon, delta=cost.delta, sentence=cost.sentence, prior=PRIOR, success=success.success
    ), ""
