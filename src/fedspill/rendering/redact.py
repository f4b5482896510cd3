"""A report that may be shared: the numbers stay, everything that shows a private example goes."""

from fedspill.audit.report import AuditReport, Pictures


def redact(report: AuditReport) -> AuditReport:
    """The same report without pictures and marked as redacted, so that no view draws one."""
    return report.model_copy(update={"pictures": Pictures(), "redacted": True})
