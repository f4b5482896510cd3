"""What the clients did to their updates, as every view says it."""

from dataclasses import dataclass

from fedspill.rendering import numbers
from fedspill.report.schema import AppliedDefence, AuditReport


@dataclass(frozen=True)
class DefenceRow:
    """One defence: as the plan writes it, its fields, and what is proven of it."""

    label: str
    title: str
    fields: str
    proven: str


def defence_rows(report: AuditReport) -> list[DefenceRow]:
    """The defences in the order in which they act."""
    return [
        DefenceRow(
            f"{d.name}:{d.preset}",
            d.title,
            ", ".join(f"{k} = {_value(v)}" for k, v in d.fields.items() if v is not None) or "none",
            _proven(d),
        )
        for d in report.defences
    ]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


def _proven(defence: AppliedDefence) -> str:
    cost = defence.cost
    if cost is None:
        return "nothing: no privacy is proven of it"
    return (
        f"one update is ({numbers.digits(cost.epsilon)}, {cost.delta:g})-differentially private: {cost.unit} are hard"
        f" to tell apart; noise of standard deviation {numbers.digits(cost.noise)} on every value"
    )
