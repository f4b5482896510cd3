"""Which private examples leaked, and what share of them: the one answer, for the audit and for every view."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from fedspill.report.trial import Rate, Score, Trial
from fedspill.scoring.leakage import leaked, wilson


def thresholds_of(plan: Mapping[str, Any]) -> dict[str, float]:
    """The leak thresholds of a report's plan, metric to value; empty if it judges nothing."""
    return dict((plan.get("audit") or {}).get("leak_threshold") or {})


def leak_flags(scores: Iterable[Score], thresholds: Mapping[str, float]) -> list[bool] | None:
    """Whether each private example meets all thresholds.

    Returns:
        One answer per private example, False where it got no reconstruction; None if there are no thresholds, or one
        of their metrics was not computed.
    """
    judging = {s.metric: s for s in scores if s.not_computed is None and s.metric in thresholds}
    if not thresholds or len(judging) < len(thresholds) or len({len(s.values) for s in judging.values()}) > 1:
        return None
    values = {name: torch.tensor(_numbers(score), dtype=torch.float64) for name, score in judging.items()}
    return leaked(values, thresholds, {name: s.higher_is_closer for name, s in judging.items()}).tolist()


def _numbers(score: Score) -> list[float]:
    return [float("nan") if value is None else value for value in score.values]


def with_leak_flags(trial: Trial, thresholds: Mapping[str, float]) -> Trial:
    """The trial, its `leaked` derived from its scores if it has none, as in records of before there was that field."""
    if trial.leaked is not None:
        return trial
    flags = leak_flags(trial.scores, thresholds)
    return trial if flags is None else trial.model_copy(update={"leaked": flags})


def rate(criterion: str, hits: int, n: int) -> Rate:
    """The share hits / n with its Wilson score interval (95 %).

    Args:
        criterion: what an example must meet to count, in words.
        hits: from 0 to n.
        n: at least 1.

    Raises:
        BadInput: n is below 1, or hits lie outside 0 to n.
    """
    share = wilson(hits, n)
    return Rate(criterion=criterion, hits=hits, n=n, rate=share.rate, low=share.low, high=share.high)


def example_of(trial: Trial, place: int) -> tuple[int, int]:
    """What tells a private example of a trial from all others: in a federation rounds are of the same examples."""
    return (trial.update, place) if trial.round is None else (-1, trial.examples[place])


def leaked_share(trials: Sequence[Trial]) -> Rate | None:
    """The share of private examples that any of these trials leaked; None if none of them was judged.

    An example that was attacked several times counts once. Only where a trial does not say which examples it leaked
    are the trials' own counts added up.
    """
    ran = [trial for trial in trials if trial.skipped is None]
    rates = [trial.leakage_rate for trial in ran if trial.leakage_rate is not None]
    if not rates:
        return None
    if any(trial.leaked is None and trial.leakage_rate is not None for trial in ran):
        return rate(rates[0].criterion, sum(r.hits for r in rates), sum(r.n for r in rates))
    examples = {example_of(trial, place) for trial in ran for place in range(len(trial.examples))}
    hits = {example_of(trial, place) for trial in ran for place, hit in enumerate(trial.leaked or []) if hit}
    return rate(rates[0].criterion, len(hits), len(examples))
