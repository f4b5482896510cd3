"""What each defence leaves to the strongest attack, and what it costs in accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from fedspill.rendering.sweep.facts import attacker
from fedspill.report.sweep import Outcome, SweepRow


@dataclass(frozen=True)
class Price:
    """One defence over all trials that have it.

    Attributes:
        number: its place in the sweep, from 1; its dot's in the figure.
        strongest: the attack that leaked the largest share; None if none leaked any.
        share: of the private examples that this one leaked, in [0, 1]; None if no attack was judged.
        accuracy: mean over the trials that measured it; None if none did.
        spread: its standard deviation over these; None of a single one.
        epsilon: the largest that a trial proved of one update; None if any proved nothing.
    """

    number: int
    defence: str
    strongest: str | None
    share: float | None
    accuracy: float | None
    spread: float | None
    epsilon: float | None


def prices_of(rows: Sequence[SweepRow]) -> list[Price]:
    """One for each defence that a trial of was done, in the order of the sweep."""
    pooled = dict[str, list[SweepRow]]()
    for row in rows:
        if row.state == "done" and row.outcome is not None:
            pooled.setdefault(row.defence, []).append(row)
    return [_price(number, defence, of) for number, (defence, of) in enumerate(pooled.items(), start=1)]


def _price(number: int, defence: str, rows: list[SweepRow]) -> Price:
    outcomes = [row.outcome for row in rows if row.outcome is not None]
    learnt = [o.accuracy for o in outcomes if o.accuracy is not None]
    proven = [o.epsilon for o in outcomes if o.epsilon is not None]
    strongest, share = _strongest(rows)
    return Price(
        number,
        defence,
        strongest,
        share,
        fmean(learnt) if learnt else None,
        stdev(learnt) if len(learnt) > 1 else None,
        max(proven) if len(proven) == len(outcomes) else None,
    )


def _strongest(rows: list[SweepRow]) -> tuple[str | None, float | None]:
    """The attack with the largest share of leaked examples, the first of several, and that share; none has 0."""
    pooled = dict[str, list[Outcome]]()
    for row in rows:
        if row.outcome is not None and row.outcome.leaked is not None and row.outcome.examples:
            pooled.setdefault(attacker(row), []).append(row.outcome)
    shares = {name: _share(of) for name, of in pooled.items()}
    name = max(shares, key=lambda attack: shares[attack], default=None)
    share = None if name is None else shares[name]
    return name if share else None, share


def _share(outcomes: list[Outcome]) -> float:
    return sum(o.leaked or 0 for o in outcomes) / sum(o.examples or 0 for o in outcomes)
