"""Small audits of many updates at once."""

from collections.abc import Sequence

import pytest
import torch

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.run import AuditResult
from fedspill.report.trial import Trial
from tests.support.worlds import batch, conv_bn

BRIEF = {"name": "inverting_gradients", "steps": 12}


PLAN = {"attacks": [BRIEF], "metrics": ["psnr"], "identification": [], "leak_threshold": {"psnr": 99.0}}


def audit(at_once: int, *, n: int = 5, **more) -> AuditResult:
    """Of random 8x8 pictures in float64."""
    private, settings = batch(n, dtype=torch.float64), {**PLAN, **more.pop("settings", {}), "at_once": at_once}
    table = {"audit": settings, "model": {"dtype": "float64"}}
    data, model = (private.inputs, private.labels), conv_bn(dtype=torch.float64)
    return run_audit(parse_plan(table), model=model, data=data, device="cpu", **more)


def alike(found: Sequence[Trial], wanted: Sequence[Trial]) -> None:
    """The same but for the clock."""
    for one, two in zip(found, wanted, strict=True):
        assert [v for s in one.scores for v in s.values] == pytest.approx([v for s in two.scores for v in s.values])
        assert [v for _, v in one.objective] == pytest.approx([v for _, v in two.objective])
        assert one.confidence == pytest.approx(two.confidence)
        assert one.iterations == two.iterations
        own = ("name", "update", "seed", "converged", "ended_by_budget", "notes", "examples", "skipped", "matched")
        assert [getattr(one, k) for k in own] == [getattr(two, k) for k in own]
