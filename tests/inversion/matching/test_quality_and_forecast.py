"""Searches that stop at a quality by their own estimate, and what is told before they start."""

import math
import time

import pytest
import torch

from fedspill.attacks.inverting_gradients import InvertingGradients, TotalVariation
from fedspill.auditing import parse_plan, run_audit
from fedspill.auditing.watch import Silent, TrialWatch, duration, forecast_sentence
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import UNWATCHED, Forecast
from fedspill.inversion.matching.quality import agreement, combined, explained
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.settings import SearchSettings
from fedspill.inversion.search.step_rules import LBFGS, SignedAdam
from fedspill.plan.sections import parse_decibels
from tests.support.watches import BreakingWatch, Broken
from tests.support.worlds import batch, conv_bn, mlp

LIKE = torch.zeros((), dtype=torch.float64)


class Heard(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.messages = list[str]()

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize(
    ("text", "level"), [("20dB", 20.0), (" 17.5 dB ", 17.5), ("30", 30.0), (25, 25.0), (12.5, 12.5)]
)
def test_a_quality_is_a_psnr(text: str | float, level: float) -> None:
    assert parse_plan({"audit": {"quality": text}}).audit.quality == level
    assert parse_plan({}).audit.quality is None
    if isinstance(text, str):
        assert parse_decibels(text) == level


@pytest.mark.parametrize("text", ["20 db", "dB", "-3dB", "0dB", "101dB", "20%", "20dB or so", "nan", ""])
def test_what_is_no_quality_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="no quality above 0 and at most 100 dB; write a PSNR such as '20dB'"):
        parse_decibels(text)
    with pytest.raises(BadInput, match=r"'audit\.quality'"):
        parse_plan({"audit": {"quality": text}})


def test_agreement_of_independent_errors_is_half_a_bit_below_the_quality() -> None:
    truth = rand((1, 2, 3, 40, 40), stream(0, "t"), LIKE)
    images = truth + 0.1 * randn((6, 2, 3, 40, 40), stream(0, "e"), LIKE)
    assert agreement(images) == pytest.approx(20 - 10 * math.log10(2), abs=0.1)
    assert agreement(images + 0.5) == pytest.approx(agreement(images)), "a shared error is not seen"
    assert agreement(images * 2, 2.0) == pytest.approx(agreement(images))
    assert agreement(truth.expand(2, *truth.shape[1:])) == 100.0


def test_the_estimate_needs_runs_that_agree_and_an_update_that_is_explained() -> None:
    assert explained(1e-3) == pytest.approx(explained(1e-2) + 10)
    assert combined(30.0, 1.0) == explained(1.0) < 10
    assert 8 < combined(11.0, 1e-6) < 11
    assert explained(0.0) == 100.0
    assert combined(40.0, math.inf) == -math.inf


def pair(best: float) -> Problem:
    """Runs that fall towards 0 from both sides; the estimate is better the closer they are."""
    starts = iter([1.0, -1.0, 1.0, -1.0])

    def estimate(v: list[torch.Tensor]) -> float:
        assert len(v[0]) == 2
        return best - float((v[0][0] - v[0][1]).abs().max())

    return Problem(
        lambda rng: [torch.full((3,), next(starts), dtype=torch.float64)],
        lambda v: v[0].pow(2).sum(),
        lambda v: None,
        lambda v: v[0].pow(2).sum(-1),
        estimate=estimate,
    )


class Wanting(BreakingWatch):
    """Asks for a quality."""

    level = 19.0

    def quality(self) -> float | None:
        return self.level


def test_a_search_stops_where_its_estimate_reaches_what_was_asked_for() -> None:
    search = BatchedSearch(SignedAdam(lr=0.02), 200, restarts=2)
    found = search.run([pair(20.0)], stream(0, "s"), Wanting())
    assert found.enough
    assert found.complete
    assert found.estimate is not None
    assert found.estimate >= 19.0
    assert 16 < len(found.history) < 100, "the two begin 2 apart, at an estimate of 18"
    for problem, watch in ((pair(18.9), Wanting()), (pair(20.0), UNWATCHED)):
        found = search.run([problem], stream(0, "s"), watch)
        assert (found.enough, found.complete, len(found.history)) == (False, True, 201)
    assert found.estimate is None, "nobody asked"


def test_a_search_that_was_broken_stops_where_the_whole_one_does() -> None:
    search = BatchedSearch(SignedAdam(lr=0.02), 200, restarts=2)
    whole = search.run([pair(20.0)], stream(0, "s"), Wanting())
    watch = Wanting(15)
    with pytest.raises(Broken):
        search.run([pair(20.0)], stream(0, "s"), watch)
    resumed = search.run([pair(20.0)], stream(0, "s"), Wanting(kept=watch.kept))
    assert (resumed.history, resumed.estimate) == (whole.history, whole.estimate)


def test_a_hypothesis_that_is_worse_than_another_stops_nothing() -> None:
    good, worse = pair(10.0), pair(20.0)
    values = worse.values
    assert values is not None
    worse = Problem(worse.draw, worse.value, worse.project, lambda v: values(v) + 5.0, estimate=worse.estimate)
    found = BatchedSearch(SignedAdam(lr=0.02), 200, restarts=2).run([good, worse], stream(0, "s"), Wanting())
    assert (found.problem, found.enough) == (0, False)
    assert found.estimate == pytest.approx(10.0, abs=0.1)


def attacked(model, steps: int, level: float | None):
    private = batch(1)
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, labels=private.labels, local_training=FedSGD())
    watch = TrialWatch(Silent(), wanted=level)
    return InvertingGradients(search=SearchSettings(steps=steps), prior=TotalVariation(tv=0.0)).reconstruct(
        update, knowledge, stream(0, "a"), watch
    )


def test_inverting_gradients_stops_early_where_it_succeeds_and_says_so() -> None:
    found = attacked(mlp(), 200, 20.0)
    assert len(found.objective) < 150
    assert any("by its own estimate, which is no bound" in note for note in found.notes)
    error = (found.inputs - batch(1).inputs).pow(2).mean()
    assert float(-10 * error.log10()) > 19.0
    assert len(found.objective) < len(attacked(mlp(), 200, None).objective)


def test_inverting_gradients_goes_on_where_it_does_not_succeed() -> None:
    found = attacked(conv_bn(), 40, 20.0)
    assert len(found.objective) == 41
    assert any("which is no bound, it reached" in note for note in found.notes)


def test_a_forecast_is_near_the_search_that_follows() -> None:
    def value(v: list[torch.Tensor]) -> torch.Tensor:
        time.sleep(0.01)
        return v[0].pow(2).sum()

    problem = Problem(lambda rng: [torch.ones(200)], value, lambda v: None)
    for rule, evaluations in ((SignedAdam(), 1), (LBFGS(inner=2), 3)):
        watch = TrialWatch(Silent())
        began = time.monotonic()
        Search(rule, 10, restarts=2).run([problem, problem], stream(0, "s"), watch)
        took = time.monotonic() - began
        assert watch.forecasted is not None
        assert watch.forecasted.iterations == 40
        # The squares and their sum, and back from it: a gradient of one number for all, twos, and the product.
        assert 800 + 4 <= watch.forecasted.memory <= 3 * 800 + 64
        # A machine under load sleeps longer, for the forecast as for the search.
        assert 40 * 0.01 * evaluations < watch.forecasted.total < 4 * took
        assert watch.forecasted.total > took / 4


def test_an_unwatched_search_makes_no_forecast() -> None:
    calls = list[int]()

    def value(v: list[torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return v[0].pow(2).sum()

    problem = Problem(lambda rng: [torch.ones(2)], value, lambda v: None)
    Search(SignedAdam(), 5).run([problem], stream(0, "s"), UNWATCHED)
    assert len(calls) == 6


def test_a_forecast_in_words() -> None:
    forecast = Forecast(4800, 0.05, 1_200_000_000)
    assert forecast.total == pytest.approx(240)
    assert (
        forecast_sentence(forecast, 1, None)
        == "about 20 iterations a second, so 4,800 take 4 min; about 1.2 GB of memory"
    )
    assert "and 10 such trials 40 min;" in forecast_sentence(forecast, 10, None)
    assert "of which the budget leaves 60 s;" in forecast_sentence(forecast, 10, 60.0)
    assert forecast_sentence(Forecast(10, 1.0), 1, 60.0) == "about 1 iterations a second, so 10 take 10 s"
    assert [duration(s) for s in (0.123, 45.0, 600.0, 9000.0)] == ["0.12 s", "45 s", "10 min", "2.5 h"]


def test_an_audit_tells_of_the_attack_once_and_keeps_it_with_every_trial() -> None:
    private, heard = batch(2), Heard()
    table = {
        "audit": {"attacks": [{"name": "inverting_gradients", "steps": 40}], "metrics": ["psnr"], "quality": "99dB"}
    }
    report = run_audit(
        parse_plan(table), model=mlp(), data=(private.inputs, private.labels), device="cpu", listener=heard
    ).report
    told = [m for m in heard.messages if "iterations a second" in m]
    assert len(told) == 1
    assert "and 2 such trials" in told[0]
    assert "of memory" in told[0]
    for trial in report.trials:
        assert trial.foreseen is not None
        assert trial.foreseen.iterations == 80, "two runs, so that they can be compared"
        assert trial.foreseen.memory is not None
        assert 0 < trial.foreseen.seconds < 1
        assert any("which is no bound, it reached" in note for note in trial.notes)


def test_a_quality_of_what_are_no_images_is_refused() -> None:
    table = {"audit": {"quality": "20dB"}, "data": {"name": "breast_cancer"}, "model": {"name": "mlp"}}
    with pytest.raises(BadInput, match=r"audit\.quality=20 dB is a PSNR of images"):
        run_audit(parse_plan(table), device="cpu")
