"""Which examples leaked is answered once, and derived for reports of before there was a field for it."""

import pytest

from fedspill.report.leakage import leak_flags, leaked_share, rate, thresholds_of, with_leak_flags
from fedspill.report.schema import AuditReport
from fedspill.report.trial import Score, Trial
from tests.support.reports import STATES, State, report

PSNR = Score(metric="psnr", unit="dB", higher_is_closer=True, values=[20.0, 19.9, None, 30.0])
MSE = Score(metric="mse", unit="", higher_is_closer=False, values=[0.01, 0.01, None, 0.02])
LPIPS = Score(metric="lpips", unit="", higher_is_closer=False, values=[], not_computed="no weights")


@pytest.mark.parametrize(
    ("thresholds", "flags"),
    [
        ({"psnr": 20.0}, [True, False, False, True]),
        ({"mse": 0.01}, [True, True, False, False]),
        ({"psnr": 20.0, "mse": 0.01}, [True, False, False, False]),
        ({}, None),
        ({"psnr": 20.0, "lpips": 0.3}, None),
        ({"psnr": 20.0, "ssim": 0.5}, None),
    ],
)
def test_every_threshold_must_be_met(thresholds: dict[str, float], flags: list[bool] | None) -> None:
    assert leak_flags([PSNR, MSE, LPIPS], thresholds) == flags


def test_scores_of_different_lengths_are_not_judged() -> None:
    short = MSE.model_copy(update={"values": [0.0]})
    assert leak_flags([PSNR, short], {"psnr": 20.0, "mse": 0.01}) is None


def _old(audit: AuditReport) -> AuditReport:
    """The same report as it was written before trials said which examples leaked."""
    for trial in (table := audit.model_dump(mode="json"))["trials"]:
        del trial["leaked"]
    return AuditReport.model_validate(table)


@pytest.mark.parametrize("state", STATES)
def test_an_old_report_is_read_as_a_new_one(state: str) -> None:
    audit = report(STATES[state])
    assert _old(audit) == audit
    judged = [t for t in audit.trials if t.leakage_rate is not None]
    assert [sum(t.leaked or []) for t in judged] == [t.leakage_rate.hits for t in judged if t.leakage_rate]
    assert all(t.leaked is None for t in audit.trials if t.leakage_rate is None)


def test_what_a_trial_says_is_not_derived_again() -> None:
    trial = report().trials[0].model_copy(update={"leaked": [False] * 4})
    assert with_leak_flags(trial, {"psnr": 0.0}) is trial


def test_a_plan_without_thresholds_judges_nothing() -> None:
    assert thresholds_of({}) == thresholds_of({"audit": {}}) == thresholds_of({"audit": {"leak_threshold": None}}) == {}


def _trials(state: State) -> list[Trial]:
    return [t for t in report(state).trials if t.attack == "robbing_the_fed"]


def test_an_example_leaked_by_several_seeds_counts_once() -> None:
    share = leaked_share(_trials(State(seeds=(0, 1, 2))))
    assert share is not None
    assert (share.hits, share.n) == (8, 8)
    assert (share.low, share.high) == pytest.approx((0.6756, 1.0), abs=1e-4)


def test_any_trial_that_leaks_an_example_is_enough() -> None:
    first, second = (t.model_copy(update={"update": 0}) for t in _trials(State())[:2])
    first = first.model_copy(update={"leaked": [True, False, False, False]})
    second = second.model_copy(update={"leaked": [True, True, False, False]})
    share = leaked_share([first, second])
    assert share is not None
    assert (share.hits, share.n, share.rate) == (2, 4, 0.5)


def test_a_share_of_trials_that_name_no_example_adds_up() -> None:
    trials = [t.model_copy(update={"leaked": None}) for t in _trials(State())]
    share = leaked_share(trials)
    assert share is not None
    assert (share.hits, share.n) == (8, 8)


def test_there_is_no_share_where_nothing_was_judged() -> None:
    assert leaked_share(report(STATES["all skipped"]).trials) is None
    assert leaked_share(report(STATES["no threshold"]).trials) is None


def test_a_rate_has_the_wilson_interval() -> None:
    share = rate("psnr >= 20 dB", 8, 8)
    assert (share.low, share.high) == pytest.approx((0.6756, 1.0), abs=1e-4)
