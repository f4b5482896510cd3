"""Advice on three plans that leak, and every advised change audited again: the figures of docs/advice.md.

python -m benchmarks.advice [FOLDER] [PLAN...]

Each change is audited under seeds that the search had not, on the plan's own images and on others. FOLDER holds what is
measured, and is gone on with.
"""

import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import fedspill
from fedspill.plan.tables import table_of
from fedspill.report.advice import Change
from fedspill.report.schema import AuditReport

PLANS = Path("plans/advice")
RESULTS = Path("benchmarks/results/advice")
NAMES = ("mlp", "lenet", "federation")
BUDGETS = {"mlp": 300, "lenet": 1200, "federation": 300}
"""Seconds; LeNet's four searches take ten of them, and are measured some sixty times."""
SEEDS = [5001, 5002, 5003]
OTHERS = 500
"""Added to the places of the plan's images for other ones."""


def audited(plan: Path, settings: list[str], other: bool) -> AuditReport:
    """A plain audit under other seeds, without training."""
    table = table_of(plan, settings)
    table.pop("utility")
    table["audit"] |= {"seeds": SEEDS, "budget": 120.0}
    if other:
        first, last = map(int, table["data"]["indices"].split(":"))
        table["data"]["indices"] = f"{first + OTHERS}:{last + OTHERS}"
    return fedspill.audit(table, redact=True, device="cpu").report


def seen(report: AuditReport) -> dict[str, Any]:
    """What of it is kept."""
    share = report.leakage_rate
    ran = [trial for trial in report.trials if trial.skipped is None]
    return {
        "verdict": report.verdict.name.value,
        "leaked": None if share is None else f"{share.hits} of {share.n}",
        "recognisable": sum(any(trial.recognisable or []) for trial in ran),
        "trials": len(ran),
        "skipped": len(report.trials) - len(ran),
        "ended_by_budget": sum(trial.ended_by_budget for trial in ran),
        "closest": None if not report.worst else [report.worst[0].metric, round(report.worst[0].value, 2)],
    }


def again(plan: Path, change: Change | None) -> dict[str, Any]:
    """The plan with a change, or as it is, on its own images and on others."""
    settings = [] if change is None else change.settings
    return {
        "settings": settings,
        "same images": seen(audited(plan, settings, other=False)),
        "other images": seen(audited(plan, settings, other=True)),
    }


def measure(name: str, folder: Path) -> None:
    """Advice on one plan, and its changes again."""
    plan = PLANS / f"{name}.toml"
    advice = fedspill.advise(plan, out=folder / name, budget=BUDGETS[name], device="cpu")
    record = {
        "command": f"fedspill advise {plan} --budget {BUDGETS[name]}s --device cpu",
        "versions": [fedspill.__version__, torch.__version__, platform.python_version()],
        "advice": advice.model_dump(mode="json"),
        "seeds_again": SEEDS,
        "again": [again(plan, change) for change in (None, *advice.changes)],
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    for row in record["again"]:
        print(name, row)


def main() -> None:
    """All plans, or those that are named."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="fedspill-advice-"))
    for name in sys.argv[2:] or NAMES:
        measure(name, folder)


if __name__ == "__main__":
    main()
