"""Plans, runs, reports.

from fedspill.audit import parse_plan, run_audit

result = run_audit(parse_plan({"model": {"name": "lenet"}, "audit": {"attacks": ["dlg"]}}))
print(result.report.verdict.sentence)
"""

from fedspill.audit.plan import AuditPlan
from fedspill.audit.plan_file import parse_plan, read_plan
from fedspill.audit.report import AuditReport
from fedspill.audit.run import AuditResult, run_audit

__all__ = ["AuditPlan", "AuditReport", "AuditResult", "parse_plan", "read_plan", "run_audit"]
