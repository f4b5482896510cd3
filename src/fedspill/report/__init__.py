"""What an audit leaves behind.

- `schema`: report.json, and what of it may be shared.
- `record`: what every part of a report is.
- `trial`: one trial of it.
- `certified`: what an attack claims to have read verbatim, and how often such claims were wrong.
- `bounds`: what no attack beats on its updates.
- `leakage`: which private examples leaked, and what share of them.
- `vetting`: what vetting an incoming model came to.
- `filtering`: what a test of a client's filter chain came to.
- `sweep`: what is kept of each trial of a sweep.
- `advice`: what leaks, and which changes were measured to stop it.
- `store`: the output folder: written whole, resumable, read again.
"""

from fedspill.report.schema import AuditReport, Verdict
from fedspill.report.store import Store, read_report, read_texts
from fedspill.report.trial import Trial

__all__ = ["AuditReport", "Store", "Trial", "Verdict", "read_report", "read_texts"]
