"""`fedspill.advise`: the smallest changes of a plan that stop what leaks."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedspill.advising.whole import BUDGET, SEEDS, advise_plan
from fedspill.core.errors import BadInput
from fedspill.plan.sections import AuditPlan, parse_seconds
from fedspill.plan.tables import table_of
from fedspill.report.advice import Advice


def advise(
    plan: AuditPlan | Mapping[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    budget: str | float | int = BUDGET,
    seeds: int = SEEDS,
    device: str = "auto",
) -> Advice:
    """Looks for the smallest changes of a plan that stop every leak, by measuring again.

    Args:
        plan: a TOML file, a mapping of the same sections, or a parsed plan; see docs/plan.md.
        out: folder of what is measured, and to resume from; None keeps nothing.
        budget: seconds, or a text such as "90s" or "5m", for all measurements together; finite.
        seeds: fresh ones by which a change is confirmed, at least 1.
        device: "auto", "cpu" or "cuda".

    Raises:
        BadInput: the plan cannot be resolved or attacked as it is, or a value is out of range.

    Example:
        >>> import fedspill
        >>> plan = {"audit": {"attacks": ["linear_layer"]}, "model": {"name": "mlp"},
        ...         "data": {"name": "photos", "indices": "0", "size": 8}}
        >>> advice = fedspill.advise(plan, budget="1s")
        >>> advice.verdict
        'leaks'
    """
    table = _table(plan)
    seconds = parse_seconds(budget) if isinstance(budget, str) else float(budget)
    if out is not None:
        return advise_plan(table, Path(out), budget=seconds, seeds=seeds, device=device)
    with tempfile.TemporaryDirectory(prefix="fedspill-") as folder:
        return advise_plan(table, Path(folder), budget=seconds, seeds=seeds, device=device)


def _table(plan: AuditPlan | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    if isinstance(plan, AuditPlan):
        return plan.model_dump(mode="json", exclude_unset=True)
    if isinstance(plan, Mapping):
        return dict(plan)
    if not isinstance(plan, str | Path):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadInput(
            f"plan is a {type(plan).__name__}; a TOML file, a mapping of sections, or an AuditPlan is needed"
        )
    return table_of(Path(plan))
