"""The rounds of a federation as rows, for every view."""

from dataclasses import dataclass

from fedspill.rendering import numbers
from fedspill.report.schema import AuditReport, RoundRecord


@dataclass(frozen=True)
class RoundRow:
    """One round in words; a dash where there is nothing.

    Attributes:
        observer: empty if nobody looked on.
        hits: private examples that leaked.
        note: whose server this is, where it alters its model; why nothing was tested.
    """

    number: str
    clients: str
    examples: str
    accuracy: str
    loss: str
    observer: str
    leaked: str
    hits: int
    worst: str
    note: str


def round_rows(report: AuditReport) -> list[RoundRow]:
    """Every round, in order; empty without a federation."""
    each = report.plan.get("federation", {}).get("observes") == "each" if report.rounds else False
    return [_row(one, each) for one in report.rounds]


def _row(one: RoundRecord, each: bool) -> RoundRow:
    share, worst = one.leakage, one.worst
    shown = "" if worst is None else f"{numbers.metric_name(worst.metric)} {numbers.number(worst.value, worst.unit)}"
    return RoundRow(
        number=str(one.number),
        clients=numbers.listing(one.clients),
        examples=f"{one.examples:,}",
        accuracy="–" if one.accuracy is None else numbers.percent(one.accuracy),
        loss="–" if one.loss is None else f"{one.loss:.3g}",
        observer=_observer(one, each),
        leaked="–" if share is None else f"{share.hits} of {share.n}",
        hits=0 if share is None else share.hits,
        worst=shown or "–",
        note="; ".join(part for part in (one.world or "", _untested(one)) if part),
    )


def _observer(one: RoundRecord, each: bool) -> str:
    match one.observer:
        case None:
            return ""
        case "server":
            return "server, each client by itself" if each else "server, the mean"
        case client:
            return f"{client}, who sees two global models"


def _untested(one: RoundRecord) -> str:
    if one.observer is None:
        return "not observed"
    return "" if one.untested is None else f"nothing tested: {one.untested}"
