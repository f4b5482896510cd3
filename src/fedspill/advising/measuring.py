"""One plan attacked, or trained, and kept: a trial of the folder's ledger, which is run once whatever is killed.

Of a plan without `[utility]` the attacks are run, of one with it accuracy is measured and no attack is run. The report
of an attacked plan, without pictures, lies in a folder by the trial's digest.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from fedspill.auditing.resolving.scenario import prepare
from fedspill.auditing.run import run_audit
from fedspill.auditing.utility.short_training import utility
from fedspill.core.errors import BadInput
from fedspill.core.tensor_files import write_whole
from fedspill.plan.build import pick_device
from fedspill.plan.sections import AuditPlan, UtilitySection
from fedspill.report.schema import AuditReport, Utility
from fedspill.report.store import read_report
from fedspill.report.sweep import Outcome
from fedspill.sweeping.driving import Unwatched, drive
from fedspill.sweeping.engines.here import Here
from fedspill.sweeping.grid import Point
from fedspill.sweeping.ledger import LEDGER_FILE, Ledger, readable
from fedspill.sweeping.running import measured, outcome_of
from fedspill.sweeping.trials import digest_of, trials_of

AUDITS = "audits"
UTILITY = "utility.json"
DIGITS = 16
"""Of a digest, in a folder's name."""


@dataclass(frozen=True)
class Measured:
    """What came of one plan.

    Attributes:
        report: None if its attacks were not run.
        learnt: None if its accuracy was not measured.
        reason: why both are none.
    """

    outcome: Outcome
    report: AuditReport | None
    learnt: Utility | None = None
    reason: str = ""


def _utility(path: Path) -> Utility:
    try:
        return Utility.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise BadInput(f"{str(path)!r} is gone or broken, though the ledger has it; give another --out") from None


class Measurer(AbstractContextManager["Measurer"]):
    """Measures plans into a folder, each once.

    Args:
        folder: of the ledger and the reports; what it holds is not measured again.
        told: is called with the outcome of every plan, of earlier calls too.

    Raises:
        BadInput: the folder's ledger cannot be used.
    """

    def __init__(self, folder: Path, device: str, told: Callable[[Outcome], None]) -> None:
        self.folder, self.device, self._told = folder, device, told
        self._ledger, self._seen, self._threads = Ledger(folder), set[str](), torch.get_num_threads()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger.close()
        torch.set_num_threads(self._threads)  # a measurement takes one

    def __call__(self, table: Mapping[str, Any], changed: Mapping[str, Any]) -> Measured:
        """Measures a plan, or reads what it measured before.

        Args:
            changed: what tells it from the plan as it is, for the ledger.
        """
        try:
            (trial,) = trials_of([Point(changed, dict(table))])
        except BadInput as error:
            return Measured(Outcome(state="refused", error=str(error)), None, None, str(error))
        with readable(self.folder / LEDGER_FILE):
            self._ledger.add([replace(trial, number=len(self._seen))])
            if trial.digest not in self._seen:
                self._ledger.retry()
            drive(self._ledger, lambda: Here(self.device, self._run), Unwatched())
            row = next(row for row in self._ledger.rows() if row.digest == trial.digest)
        outcome = row.outcome or Outcome(state="failed", error="it was not measured")
        if trial.digest not in self._seen:
            self._told(outcome)
        self._seen.add(trial.digest)
        return self._kept(trial.digest, outcome)

    def _kept(self, digest: str, outcome: Outcome) -> Measured:
        if outcome.state != "done":
            return Measured(outcome, None, None, outcome.error or "")
        if outcome.verdict is None:
            return Measured(outcome, None, _utility(self._of(digest) / UTILITY))
        return Measured(outcome, read_report(self._of(digest))[0])

    def _of(self, digest: str) -> Path:
        return self.folder / AUDITS / digest[:DIGITS]

    def _run(self, plan: str, device: str) -> Outcome:
        return measured(plan, self._measure)

    def _measure(self, plan: AuditPlan) -> Outcome:
        if plan.utility is not None:
            return self._learnt(plan, plan.utility)
        out = self._of(digest_of(plan))
        return outcome_of(run_audit(plan, out=out, device=self.device, redact=True, command="fedspill advise").report)

    def _learnt(self, plan: AuditPlan, section: UtilitySection) -> Outcome:
        learnt, out = utility(prepare(plan, pick_device(self.device)), section), self._of(digest_of(plan))
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / UTILITY, learnt.model_dump_json(indent=1))
        return Outcome(state="done", accuracy=learnt.accuracy)
