"""Small audits with defences."""

from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.run import AuditResult
from tests.support.worlds import batch, relu_mlp


def audit(defences: list[dict], attacks: list, n: int = 4, model=None, **sections) -> AuditResult:
    private = batch(n)
    table = {
        "audit": {"attacks": attacks, "metrics": ["psnr"], "identification": []},
        "client": {"num_examples": n, **sections.pop("client", {})},
        "defences": defences,
        **sections,
    }
    data = (private.inputs, private.labels)
    return run_audit(parse_plan(table), model=model or relu_mlp(), data=data, device="cpu")
