"""Leaks, recognisable, not shown or not tested: what trials found, whatever a policy makes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fedspill.auditing.watch import USEFUL
from fedspill.plan.sections import PolicySection
from fedspill.report.leakage import example_of, rate
from fedspill.report.schema import VerdictName
from fedspill.report.trial import Rate, Trial

RECOGNISED = "leaked, or told from 100 others and closer than a guess without the update"
"""What counts as recognisable, in words."""

Example = tuple[int, int]


@dataclass(frozen=True)
class Rules:
    """By what trials are judged.

    Attributes:
        judged: the plan has leak thresholds; without, nothing is judged but by `policy.max_psnr`.
        metric: that examples are ranked by.
    """

    policy: PolicySection
    judged: bool
    metric: str


@dataclass(frozen=True)
class Level:
    """What came out of trials that were run.

    Attributes:
        leaked: share of the private examples that leaked; None if that could not be judged.
        recognised: that leaked or are recognisable; None likewise.
        closest: highest PSNR of any example in dB, if there is one.
    """

    name: VerdictName
    leaked: Rate | None
    recognised: Rate | None
    closest: float | None


def level(trials: Sequence[Trial], rules: Rules) -> Level:
    """The level that the closest example of these trials reached."""
    ran = [t for t in trials if t.skipped is None]
    hits = leaked_examples(ran) if rules.judged else set[Example]()
    seen = hits | _flagged(ran, "recognisable") if rules.judged else set[Example]()
    closest, most = closest_psnr(ran), rules.policy.max_psnr
    if hits or (most is not None and closest is not None and closest > most):
        name = VerdictName.LEAKS
    elif seen:
        name = VerdictName.RECOGNISABLE
    else:
        name = VerdictName.NOT_SHOWN if any(is_useful(t) for t in ran) else VerdictName.NOT_TESTED
    return Level(name, _share(ran, hits, "leaked"), _share(ran, seen, "recognisable"), closest)


def leaked_examples(ran: Sequence[Trial]) -> set[Example]:
    """Those that meet the thresholds in any trial, and those of which an exact copy was read and certified blind.

    A certificate alone makes no leak: it is the attack's word, and the truth is at hand. But a copy that the attack
    certified without it is a leak even where that candidate was not the one that was scored.
    """
    copies = {
        example_of(t, r.exact)
        for t in ran
        if t.predicted is None or t.predicted.what == "examples"
        for r in t.readings
        if r.exact is not None and r.mark == "alone"
    }
    return _flagged(ran, "leaked") | copies


Flag = Literal["leaked", "recognisable"]


def _flags(trial: Trial, flag: Flag) -> list[bool] | None:
    return trial.leaked if flag == "leaked" else trial.recognisable


def _flagged(ran: Sequence[Trial], flag: Flag) -> set[Example]:
    return {example_of(t, place) for t in ran for place, hit in enumerate(_flags(t, flag) or []) if hit}


def _share(ran: Sequence[Trial], hits: set[Example], flag: Flag) -> Rate | None:
    every = {example_of(t, place) for t in ran for place in range(len(t.examples))}
    if not every or (not hits and all(_flags(t, flag) is None for t in ran)):
        return None
    criterion = next((t.leakage_rate.criterion for t in ran if t.leakage_rate is not None), "")
    return rate(criterion if flag == "leaked" else RECOGNISED, len(hits), len(every))


def closest_psnr(trials: Sequence[Trial]) -> float | None:
    """The highest PSNR of any example in dB; None if none was computed."""
    scores = (s for t in trials for s in t.scores if s.metric == "psnr")
    return max((v for s in scores for v in s.values if v is not None), default=None)


def is_useful(trial: Trial) -> bool:
    """Whether a trial says something: it ended, found something, or made a useful share of its iterations."""
    if trial.skipped is not None:
        return False
    found = trial.converged or any(trial.leaked or []) or any(trial.recognisable or [])
    share = _searched(trial)
    return not trial.ended_by_budget or found or (share is not None and share >= USEFUL)


def _searched(trial: Trial) -> float | None:
    """As the attack told; of records of before that, at least what the best run made of what was foreseen of all."""
    if trial.searched is not None or trial.foreseen is None:
        return trial.searched
    return trial.iterations / max(1, trial.foreseen.iterations)
