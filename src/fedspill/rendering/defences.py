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


def who_knows(report: AuditReport) -> str:
    """Whether the attacks went by what they know of the defences."""
    granted = any(grant.name == "defence" and grant.granted for grant in report.grants)
    if granted:
        return "The server knows of it, as it should be taken to; attacks that can go by that do."
    return "The attacks know of none of it."


def utility_sentence(report: AuditReport) -> str | None:
    """What was learnt under these defences; None if nobody asked."""
    found = report.utility
    if found is None:
        return None
    return (
        f"Accuracy after {found.rounds} rounds of {numbers.count(found.clients, 'client')} under this protocol and its"
        f" defences: {found.accuracy:.1%} of {found.held_out} held-out examples; before {found.before:.1%}, by always"
        f" guessing the most frequent label {found.guess:.1%} (server's learning rate {found.server_lr:g};"
        f" {found.source})."
    )
