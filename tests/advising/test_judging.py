"""Nothing leaked is a stop only where every attack did what it did before."""

import math
from typing import Any

import pytest

from fedspill.advising.judging import by_luck, judged
from fedspill.plan.sections import PolicySection
from fedspill.report.leakage import rate
from fedspill.report.schema import AuditReport, Environment, Verdict, VerdictName
from fedspill.report.trial import SearchForecast, Trial

POLICY = PolicySection()
WHERE = dict.fromkeys(("fedspill", "python", "torch", "device", "device_name", "started", "command"), "")
DIGESTS = dict.fromkeys(("plan_sha256", "weights_sha256", "data", "model"), "")


def trial(attack: str, **fields: Any) -> Trial:
    shared = {"name": attack, "attack": attack, "preset": "paper", "title": "", "role": "honest-but-curious"}
    known = {"seed": 0, "update": 0, "examples": [0], "converged": True, "leaked": [False], "recognisable": [False]}
    return Trial(**{**shared, **known, "leakage_rate": rate("", 0, 1), **fields})


def report(name: VerdictName, *trials: Trial, judged: bool = True) -> AuditReport:
    return AuditReport(
        plan={},
        environment=Environment(**WHERE, **DIGESTS, threads=1, seconds=0.0),
        grants=[],
        trials=list(trials),
        worst=[],
        leakage_rate=rate("", 0, 1) if judged else None,
        caveats=[],
        not_tested=[],
        verdict=Verdict(name=name, sentence="", exit_code=0),
    )


def forecast(iterations: int) -> SearchForecast:
    return SearchForecast(iterations=iterations, seconds=1.0)


BEFORE = report(VerdictName.LEAKS, trial("one", leaked=[True]), trial("two", foreseen=forecast(1000)))
ONE = trial("one")
TWO = trial("two", foreseen=forecast(990))
QUIET = VerdictName.NOT_SHOWN


@pytest.mark.parametrize(
    ("after", "found", "why"),
    [
        (report(QUIET, ONE, TWO), "stops", ""),
        (report(VerdictName.LEAKS, ONE, TWO), "leaks", "leaks"),
        (report(VerdictName.RECOGNISABLE, ONE, TWO), "leaks", "recognisable"),
        (report(VerdictName.NOT_TESTED, ONE, TWO), "untested", "not tested"),
        (report(QUIET, ONE), "untested", "two was skipped"),
        (report(QUIET, ONE, trial("two", skipped="no time")), "untested", "no time"),
        (report(QUIET, ONE, trial("two", ended_by_budget=True)), "untested", "two was ended"),
        (report(QUIET, ONE, trial("two", foreseen=forecast(400))), "untested", "400 iterations"),
        (report(QUIET, ONE, TWO, judged=False), "untested", "could not be judged"),
        (report(QUIET, trial("one", recognisable=None), trial("two", recognisable=None)), "untested", "recognisable"),
    ],
)
def test_what_a_change_comes_to(after: AuditReport, found: str, why: str) -> None:
    told = judged(after, BEFORE, POLICY)
    assert told[0] == found
    assert why in told[1]


def test_what_the_policy_allows_is_no_leak() -> None:
    lenient = PolicySection(fails=("leaks",))
    assert judged(report(VerdictName.RECOGNISABLE, ONE, TWO), BEFORE, lenient) == ("stops", "")


@pytest.mark.parametrize(
    ("hits", "n", "luck"), [(1, 48, True), (3, 48, True), (5, 48, False), (2, 6, False), (1, 6, True)]
)
def test_what_is_recognised_no_more_often_than_strangers_is_luck(hits: int, n: int, luck: bool) -> None:
    exactly = [math.comb(n, k) * (2 / 101) ** k * (1 - 2 / 101) ** (n - k) for k in range(hits, n + 1)]
    assert by_luck(hits, n) is luck is (sum(exactly) > 0.01)
