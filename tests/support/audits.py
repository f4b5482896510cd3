"""Small audits."""

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.run import AuditResult
from tests.support.worlds import batch, mlp

EXACT = {"attacks": ["linear_layer"], "metrics": ["psnr", "mse"], "identification": ["pixel", "feature"]}


BRIEF = {"attacks": [{"name": "inverting_gradients", "steps": 15}], "metrics": ["psnr"]}


def audit(table: dict, *, n: int = 3, model=None, **more) -> AuditResult:
    """An audit of random 8x8 pictures on the small network."""
    private = batch(n)
    return run_audit(
        parse_plan(table), model=model or mlp(), data=(private.inputs, private.labels), device="cpu", **more
    )
