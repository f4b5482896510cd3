"""Rows of a sweep pooled by attack and defence, and in words."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from fedspill.rendering import numbers
from fedspill.report.sweep import SweepRow

SHOWN_AS_COLUMNS = ("audit.attacks", "defences")
"""Keys that the columns of attack and defence tell."""
KNOWS = "server.knows_defence"


@dataclass(frozen=True)
class Cell:
    """All trials of one attack under one defence.

    Attributes:
        trials: that were judged.
        share: of the private examples of these that leaked, in [0, 1]; None if none was judged.
        median: of the trials' medians of the main metric; None if none was scored.
    """

    trials: int
    share: float | None
    median: float | None


@dataclass(frozen=True)
class Grid:
    """Attacks by defences.

    Attributes:
        attacks: in the order of the sweep.
        defences: likewise.
        cells: by attack and defence; a pair that no trial of was done is not there.
        metric: of the medians; None where trials differ in it, which then have none.
    """

    attacks: list[str]
    defences: list[str]
    cells: Mapping[tuple[str, str], Cell]
    metric: str | None
    unit: str


def grid_of(rows: Sequence[SweepRow]) -> Grid:
    """The trials that are done, pooled over all that varies besides."""
    done = [row for row in rows if row.state == "done"]
    metrics = {(r.outcome.metric, r.outcome.unit) for r in done if r.outcome and r.outcome.metric is not None}
    metric, unit = metrics.pop() if len(metrics) == 1 else (None, "")
    pooled = dict[tuple[str, str], list[SweepRow]]()
    for row in done:
        pooled.setdefault((attacker(row), row.defence), []).append(row)
    cells = {place: _cell(of, metric) for place, of in pooled.items()}
    attacks, defences = (list(dict.fromkeys(place[k] for place in pooled)) for k in (0, 1))
    return Grid(attacks, defences, cells, metric, unit or "")


def attacker(row: SweepRow) -> str:
    """The attack in words; with another name where the sweep keeps the defence from the server."""
    return f"{row.attack}, plain" if is_plain(row) else row.attack


def is_plain(row: SweepRow) -> bool:
    """Whether the sweep says that the server knows of no defence."""
    return row.values.get(KNOWS) is False


def _cell(rows: Sequence[SweepRow], metric: str | None) -> Cell:
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    judged = [(o.leaked, o.examples) for o in outcomes if o.leaked is not None and o.examples]
    share = sum(hits for hits, _ in judged) / sum(n for _, n in judged) if judged else None
    medians = [o.median for o in outcomes if metric is not None and o.median is not None]
    return Cell(len(judged), share, median(medians) if medians else None)


def varied(rows: Sequence[SweepRow]) -> list[str]:
    """The keys that the sweep varies, besides attack and defence, in its order."""
    keys = dict.fromkeys(key for row in rows for key in row.values)
    return [key for key in keys if key not in SHOWN_AS_COLUMNS]


def value_words(row: SweepRow, key: str) -> str:
    """The value of a key that varies, short; a dash where the trial does not set it."""
    if key not in row.values:
        return "–"
    value: Any = row.values[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return numbers.brief(value if isinstance(value, str) else json.dumps(value, default=str), 60)


def states(rows: Sequence[SweepRow]) -> str:
    """How many trials are in which state, such as "12 done, 3 refused"."""
    counted = Counter(row.state for row in rows)
    order = ("done", "refused", "failed", "running", "waiting")
    return ", ".join(f"{counted[state]:,} {state}" for state in order if counted[state])


def versions(rows: Sequence[SweepRow]) -> list[str]:
    """The versions that trials were run by; more than one are not one experiment."""
    outcomes = [row.outcome for row in rows if row.outcome is not None and row.outcome.fedspill is not None]
    return sorted({f"fedspill {o.fedspill} on PyTorch {o.torch}, Python {o.python}" for o in outcomes})
