"""Which private examples are recognisable: rebuilt clearly better than guesses without the update can be.

An example is recognisable if by one of `MARGINS` its reconstruction is closer than the best of those guesses, by the
margin at least. Where the margins come from, and how often they agree with finding the example among 100 others, says
docs/verdicts.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import log10

from fedspill.report.trial import Baseline, Score, Trial

MARGINS: Mapping[str, float] = {
    "psnr": 5.0,
    "ssim": 0.25,
    "token_accuracy": 0.25,
    "rouge_l": 0.25,
    "feature_accuracy": 0.25,
}
"""Metric to the distance from the best guess, in its unit, from which an example is recognisable."""

EXACT = 1e-10
"""Mean squared error below which PSNR says no more: 100 dB."""

UNGUESSED: Mapping[str, float] = {"token_accuracy": 0.25, "rouge_l": 0.3}
"""What guesses of sentences reach at most (docs/verdicts.md), for where no public ones are at hand to make any."""

ORACLES = frozenset({"best public image", "best public example"})
"""Guesses that are chosen with the truth: no server can make them, so nothing is compared with them."""


def recognisable(scores: Iterable[Score], guesses: Sequence[Baseline]) -> list[bool] | None:
    """Whether each private example is recognisable by any margin.

    Returns:
        One answer per private example, False where it got no reconstruction; None if no metric of a margin was
        computed, or there is no guess to compare with.
    """
    judging = [s for s in map(_in_decibels, scores) if s.metric in MARGINS and s.not_computed is None and s.values]
    answers = [_beyond(score, guessed) for score in judging if (guessed := _guessed(score, guesses)) is not None]
    return [any(each) for each in zip(*answers, strict=True)] if answers else None


def _in_decibels(score: Score) -> Score:
    """The PSNR of a mean squared error, where that is what was computed; others as they are."""
    if score.metric != "mse":
        return score
    values = [None if v is None else -10 * log10(max(v, EXACT)) for v in score.values]
    return score.model_copy(update={"metric": "psnr", "values": values})


def _beyond(score: Score, guessed: list[float]) -> list[bool]:
    margin = MARGINS[score.metric]
    return [v is not None and v - g >= margin for v, g in zip(score.values, guessed, strict=True)]


def _guessed(score: Score, guesses: Sequence[Baseline]) -> list[float] | None:
    """The best guess for each private example, of one that none was scored for the best for any; None without any."""
    made = [
        s.values
        for g in guesses
        if g.name not in ORACLES
        for s in map(_in_decibels, g.scores)
        if s.metric == score.metric and s.values
    ]
    best = [max((v for v in each if v is not None), default=None) for each in zip(*made, strict=True)]
    most = max((v for v in best if v is not None), default=UNGUESSED.get(score.metric))
    if most is None:
        return None
    return [most if v is None else v for v in best] or [most] * len(score.values)


def with_recognition(trial: Trial) -> Trial:
    """The trial, its `recognisable` derived from its scores if it has none, as in records of before there was it."""
    if trial.recognisable is not None:
        return trial
    found = recognisable(trial.scores, trial.baselines)
    return trial if found is None else trial.model_copy(update={"recognisable": found})
