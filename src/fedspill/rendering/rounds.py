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
        note: why nothing was tested.
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


def round_rows(report: AuditReport) -> list[tuple[str, list[RoundRow]]]:
    """Every round in order, world by world, each with a name; the only one needs none. Empty without a federation."""
    each = (report.plan.get("federation") or {}).get("observes") == "each"
    worlds = list(dict.fromkeys(one.world for one in report.rounds))
    rows = [[_row(one, each) for one in report.rounds if one.world == world] for world in worlds]
    return [(name_of(world) if len(worlds) > 1 else world or "", r) for world, r in zip(worlds, rows, strict=True)]


def name_of(world: str | None) -> str:
    """A world in words."""
    return "The model as it is" if world is None else f"The model as {world} alters it"


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
        note=_untested(one),
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
