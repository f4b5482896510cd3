"""The page of a sweep: what leaked by defence and attack, and every trial in one table; one file, no script."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedspill.rendering.drawing.figures import NARROW, WIDE
from fedspill.rendering.html.page import environment
from fedspill.rendering.sweep import facts, figures
from fedspill.rendering.sweep.gains import gains_of
from fedspill.rendering.sweep.prices import prices_of
from fedspill.rendering.sweep.trade_off import CAPTION, trade_off
from fedspill.report.sweep import SweepRow

MOST_ROWS = 2000
"""Trials that the page lists; sweep.csv has them all."""
STYLES = {
    "leaks": "leaks-text",
    "recognisable": "recognisable-text",
    "bounded": "bounded-text",
    "not shown": "unshown-text",
    "not tested": "untested-text",
}


@dataclass(frozen=True)
class _Shown:
    row: SweepRow
    attack: str
    values: list[str]
    style: str


def render(rows: Sequence[SweepRow]) -> str:
    """The whole page for a browser."""
    grid, keys, prices = facts.grid_of(rows), facts.varied(rows), prices_of(rows)
    ended = [row for row in rows if row.outcome is not None]
    return (
        environment()
        .get_template("sweep.html.j2")
        .render(
            rows=[_shown(row, keys) for row in ended[:MOST_ROWS]],
            learnt=any(row.outcome is not None and row.outcome.accuracy is not None for row in ended),
            more=max(0, len(ended) - MOST_ROWS),
            keys=keys,
            states=facts.states(rows),
            total=len(rows),
            seconds=sum((row.outcome.seconds for row in ended if row.outcome), 0.0),
            versions=facts.versions(rows),
            timed=sum(row.outcome.timed > 0 for row in ended if row.outcome),
            shares=_both(lambda width: figures.shares(grid, width)),
            medians=_both(lambda width: figures.medians(grid, width)),
            captions=figures.captions(grid),
            prices=prices,
            trade_off=_both(lambda width: trade_off(prices, width)),
            trade_off_caption=CAPTION,
            gains=gains_of(rows),
            unit=grid.unit,
        )
    )


def _both(draw: Callable[[int], str | None]) -> tuple[tuple[str, Markup], ...]:
    """One figure for wide pages and one for narrow ones; empty if there is nothing to draw."""
    drawn = (("wide", draw(WIDE)), ("narrow", draw(NARROW)))
    return tuple((name, Markup(svg)) for name, svg in drawn if svg is not None)


def _shown(row: SweepRow, keys: Sequence[str]) -> _Shown:
    verdict = None if row.outcome is None else row.outcome.verdict
    return _Shown(
        row, facts.attacker(row), [facts.value_words(row, key) for key in keys], STYLES.get(verdict or "", "soft")
    )
