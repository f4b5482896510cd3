"""An incoming model vetted under a policy."""

import time
from collections.abc import Mapping

from fedspill.core.roles import Incoming
from fedspill.core.tensor_files import sha256
from fedspill.report.vetting import Judged, Vetting
from fedspill.vetting.baseline import is_accepted
from fedspill.vetting.inspection import WANTED, given, inspected
from fedspill.vetting.policy import STANDARD, Policy


def vetted(
    incoming: Incoming,
    source: str,
    policy: Policy = STANDARD,
    accepted: Mapping[str, float] | None = None,
    seconds: float | None = None,
) -> Vetting:
    """Runs the checks and judges what they found.

    Args:
        incoming: the model, and what stands beside it.
        source: where it came from, for a reader.
        policy: which checks, and how severe.
        accepted: as `baseline.read_baseline` gives it.
        seconds: for all checks; None is no limit.

    Raises:
        BadInput: the policy names a check, or a preset, that there is none of.
    """
    began = time.monotonic()
    seen = inspected(incoming, policy, seconds)
    there = given(incoming)
    judged = list[Judged]()
    for finding in policy.applied(seen.findings):
        known = is_accepted(finding, accepted or {})
        judged.append(Judged(finding, finding.severity >= policy.fail_from and not known, known))
    return Vetting(
        source=source,
        checksum=sha256(incoming.tensors),
        parameters=sum(p.numel() for p in (*incoming.model.params.values(), *incoming.misfit.tensors.values())),
        checks=seen.checks,
        findings=tuple(judged),
        fail_from=policy.fail_from,
        seconds=time.monotonic() - began,
        examples=0 if incoming.own_data is None else len(incoming.own_data),
        compared=tuple(WANTED[name][0] for name, is_there in there.items() if is_there),
        missing=tuple(WANTED[name][0] for name, is_there in there.items() if not is_there),
        skipped=seen.skipped,
    )
