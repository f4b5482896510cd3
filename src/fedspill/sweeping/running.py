"""One trial: an audit on one thread, and what its row keeps of it. Runs in whatever process it is sent to."""

import json
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean, median

import torch

import fedspill
from fedspill.auditing.run import run_audit
from fedspill.core.errors import FedspillError
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import AuditPlan
from fedspill.rendering.facts import main_metric
from fedspill.report.schema import AuditReport, Cost
from fedspill.report.sweep import Outcome
from fedspill.report.trial import Trial

MOST_LETTERS = 500
"""Of a reason."""


def run_trial(plan: str, device: str = "auto") -> Outcome:
    """Runs a plan by itself; whatever it raises is an outcome, too.

    Args:
        plan: as JSON, as a person would have written it.
        device: "auto", "cpu" or "cuda".
    """
    return measured(plan, lambda read: outcome_of(_report(read, device)))


def _report(plan: AuditPlan, device: str) -> AuditReport:
    return run_audit(plan, device=device, redact=True, command="fedspill sweep").report


def measured(plan: str, measure: Callable[[AuditPlan], Outcome]) -> Outcome:
    """What a measurement of a plan gives, on one thread; whatever it raises is an outcome, too.

    Args:
        plan: as JSON, as a person would have written it.
        measure: what is measured of it.
    """
    torch.set_num_threads(1)
    began = time.monotonic()
    try:
        outcome = measure(parse_plan(json.loads(plan)))
    except FedspillError as error:
        outcome = Outcome(state="refused", error=_short(str(error)))
    except Exception as error:  # of fedspill or of the user's own code: one row of many must not take the others along
        outcome = Outcome(state="failed", error=_short(f"{type(error).__name__}: {error}"))
    told = {
        "seconds": time.monotonic() - began,
        "fedspill": fedspill.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak": peak_memory(),
    }
    return outcome.model_copy(update=told)


def outcome_of(report: AuditReport) -> Outcome:
    """What a row keeps of a report: of each private example the closest that any attack came."""
    share, cost, main = report.leakage_rate, _proven(report), main_metric(report)
    values, first = [w.value for w in report.worst], report.worst[0] if report.worst else None
    skipped = dict.fromkeys(f"{t.attack}: {t.skipped}" for t in report.trials if t.skipped is not None)
    return Outcome(
        state="done",
        verdict=report.verdict.name.value,
        leaked=None if share is None else share.hits,
        examples=None if share is None else share.n,
        metric=None if main is None else main.name,
        unit=None if main is None else main.unit,
        scored=len(values),
        worst=None if first is None else first.value,
        median=median(values) if values else None,
        mean=fmean(values) if values else None,
        guessed=None if main is None else _with_guesses(report, main.name),
        epsilon=None if cost is None else cost.epsilon,
        delta=None if cost is None else cost.delta,
        accuracy=None if report.utility is None else report.utility.accuracy,
        timed=sum(t.ended_by_budget or t.planned is not None for t in report.trials),
        skipped=_short("; ".join(skipped)) or None,
        device=report.environment.device,
    )


def _with_guesses(report: AuditReport, metric: str) -> float | None:
    """The mean over every example, by its closest reconstruction or else by the first guess of a trial on it.

    None where an example has neither.
    """
    closest: dict[tuple[int, int], float | None] = {(w.update, w.example): w.value for w in report.worst}
    for trial in (t for t in report.trials if t.skipped is None):
        for place, example in enumerate(trial.examples):
            at = (trial.update, example)
            if closest.get(at) is None:
                closest[at] = _guess(trial, metric, place)
    values = [v for v in closest.values() if v is not None]
    return fmean(values) if len(values) == len(closest) else None


def _guess(trial: Trial, metric: str, place: int) -> float | None:
    scores = [s for b in trial.baselines[:1] for s in b.scores if s.metric == metric and s.not_computed is None]
    return scores[0].values[place] if scores else None


def _proven(report: AuditReport) -> Cost | None:
    costs = [d.cost for d in report.defences if d.cost is not None]
    return min(costs, key=lambda cost: cost.epsilon, default=None)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MOST_LETTERS else flat[: MOST_LETTERS - 4] + " ..."


def peak_memory() -> int | None:
    """The most bytes that this process has held of the machine's memory; None where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return None
