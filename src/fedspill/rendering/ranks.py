"""The rank analysis of a network in words and rows: which layers determine their input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from fedspill.report.schema import AuditReport

SAID = {
    "head": "yes: the last layer's",
    "constraints": "yes",
    "patches": "yes: rank of the gradient",
    "known": "yes: from above",
}


@runtime_checkable
class Ranked(Protocol):
    """One input of layers, as analysed or as recorded."""

    @property
    def layers(self) -> Sequence[str]:
        """That take it."""
        ...

    @property
    def values(self) -> int:
        """How many it has."""
        ...

    @property
    def gradient(self) -> int:
        """Rank of the gradient's constraints."""
        ...

    @property
    def rank(self) -> int:
        """Rank of all constraints."""
        ...

    @property
    def exact(self) -> bool:
        """The rank was computed, not bounded."""
        ...

    @property
    def way(self) -> str | None:
        """What determines the input, if anything."""
        ...

    @property
    def reached(self) -> bool:
        """The recursion comes to know it."""
        ...


@dataclass(frozen=True)
class RankRow:
    """One input of layers in words."""

    layers: str
    values: str
    gradient: str
    rank: str
    determined: str
    reached: bool


def row(layer: Ranked) -> RankRow:
    """A row of the table."""
    most = "" if layer.exact else "<= "
    return RankRow(
        ", ".join(layer.layers),
        f"{layer.values:,}",
        f"{layer.gradient:,}",
        f"{most}{layer.rank:,}",
        _determined(layer),
        layer.reached,
    )


def _determined(layer: Ranked) -> str:
    if layer.way is not None:
        return SAID[layer.way]
    if layer.reached:
        return "no, but known from below"
    return f"no: {'at least ' if not layer.exact else ''}{max(0, layer.values - layer.rank):,} open"


def reach(found: Sequence[Ranked]) -> str:
    """In one sentence how far the recursion comes."""
    passed = sum(layer.reached for layer in found)
    if passed == len(found):
        return "The inputs of all layers are known: the recursion reaches the picture."
    end = next(layer for layer in reversed(found) if not layer.reached)
    return f"The recursion ends at the input of {', '.join(end.layers)}: {passed} of {len(found)} inputs are known."


@dataclass(frozen=True)
class RankTable:
    """The section of a page.

    Attributes:
        lead: how far the recursion comes, or why that is not known.
        rows: from the first layer to the last.
    """

    lead: str
    rows: tuple[RankRow, ...]


def rank_table(report: "AuditReport") -> RankTable | None:
    """The analysis of the report's network; None where it has none."""
    if report.ranks is None:
        return None
    if report.ranks.untold is not None:
        return RankTable(f"Not computed: {report.ranks.untold}. `fedspill rank` takes the time that it needs.", ())
    return RankTable(reach(report.ranks.layers), tuple(map(row, report.ranks.layers)))
