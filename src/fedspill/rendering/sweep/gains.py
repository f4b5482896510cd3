"""What an attack gains by knowing the clients' defence: trials that differ in this grant alone, pair by pair."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fedspill.rendering.sweep.facts import KNOWS, is_plain
from fedspill.report.sweep import Outcome, SweepRow


@dataclass(frozen=True)
class Gain:
    """One attack under one defence, with the knowledge less without it.

    Attributes:
        pairs: trials of each kind.
        mean: of the differences in the main metric's mean over all examples (`Outcome.guessed`), in its unit.
        spread: their standard deviation over the pairs; None of a single one.
        leaked: examples that leaked with the knowledge, less those without, over all pairs; None if not judged.
        examples: of how many.
    """

    attack: str
    defence: str
    pairs: int
    mean: float
    spread: float | None
    leaked: int | None
    examples: int


def gains_of(rows: Sequence[SweepRow]) -> list[Gain]:
    """The gains in the order of the sweep; of what was done and scored both with the knowledge and without."""
    pooled = dict[tuple[str, str], list[tuple[Outcome, Outcome]]]()
    for row, knowing, plain in _pairs(rows):
        pooled.setdefault((row.attack, row.defence), []).append((knowing, plain))
    return [_gain(attack, defence, pairs) for (attack, defence), pairs in pooled.items()]


def _pairs(rows: Sequence[SweepRow]) -> list[tuple[SweepRow, Outcome, Outcome]]:
    without = {_same(row.values): row.outcome for row in rows if is_plain(row) and row.outcome is not None}
    found = list[tuple[SweepRow, Outcome, Outcome]]()
    for row in rows:
        knowing, plain = row.outcome, without.get(_same(row.values))
        if row.values.get(KNOWS) is True and knowing is not None and plain is not None and _comparable(knowing, plain):
            found.append((row, knowing, plain))
    return found


def _same(values: Mapping[str, object]) -> str:
    """All that the sweep set besides the grant."""
    return json.dumps({k: v for k, v in values.items() if k != KNOWS}, sort_keys=True, default=str)


def _comparable(one: Outcome, other: Outcome) -> bool:
    scored = one.guessed is not None and other.guessed is not None
    return scored and (one.metric, one.unit) == (other.metric, other.unit)


def _gain(attack: str, defence: str, pairs: list[tuple[Outcome, Outcome]]) -> Gain:
    differences = [(knowing.guessed or 0.0) - (plain.guessed or 0.0) for knowing, plain in pairs]
    judged = [(k.leaked - p.leaked, k.examples or 0) for k, p in pairs if k.leaked is not None and p.leaked is not None]
    return Gain(
        attack,
        defence,
        len(pairs),
        fmean(differences),
        stdev(differences) if len(differences) > 1 else None,
        sum(d for d, _ in judged) if judged else None,
        sum(n for _, n in judged),
    )
