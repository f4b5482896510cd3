"""Plans, runs, reports.

from fedspill.auditing import parse_plan, run_audit

result = run_audit(parse_plan({"model": {"name": "lenet"}, "audit": {"attacks": ["dlg"]}}))
print(result.report.verdict.sentence)
"""

from fedspill.auditing.run import AuditResult, run_audit
from fedspill.plan.file import parse_plan, read_plan
from fedspill.plan.sections import AuditPlan
from fedspill.report.schema import AuditReport

__all__ = ["AuditPlan", "AuditReport", "AuditResult", "parse_plan", "read_plan", "run_audit"]
