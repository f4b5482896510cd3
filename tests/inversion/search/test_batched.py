"""Runs at once find what runs one after the other find."""

from dataclasses import replace

import pytest
import torch

from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED
from fedspill.core.settings import with_fields
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.settings import SearchSettings
from tests.support.searches import DOUBLE, RULE, rough, same
from tests.support.watches import BreakingWatch, Broken, Impatient
from tests.support.worlds import SPEC, batch, conv_bn

PROBLEMS = [rough(0.0, 20.0), rough(1.0, 10.0), rough(0.5, 30.0)]


@pytest.mark.parametrize("give_up", [None, (20, 12.0)])
def test_a_batched_search_finds_the_same(give_up: tuple[int, float] | None) -> None:
    settings = {"rule": RULE, "steps": 60, "restarts": 5, "give_up": give_up}
    one = Search(**settings).run(PROBLEMS, stream(0, "s"), UNWATCHED)
    same(BatchedSearch(**settings).run(PROBLEMS, stream(0, "s"), UNWATCHED), one)
    assert (one.diverged > 0) == (give_up is not None)


@pytest.mark.parametrize("break_after", [1, 13, 25])
def test_a_broken_batched_search_goes_on_to_the_same_result(break_after: int) -> None:
    search = BatchedSearch(RULE, 10, restarts=3)
    whole = search.run(PROBLEMS, stream(1, "s"), UNWATCHED)
    watch = BreakingWatch(break_after)
    with pytest.raises(Broken):
        search.run(PROBLEMS, stream(1, "s"), watch)
    resumed = search.run(PROBLEMS, stream(1, "s"), BreakingWatch(kept=watch.kept))
    assert torch.equal(resumed.variables[0], whole.variables[0])
    assert resumed.history == whole.history
    assert resumed.best_by_problem == whole.best_by_problem


def test_a_batched_search_ends_with_the_budget_or_the_tolerance() -> None:
    found = BatchedSearch(RULE, 100, restarts=4).run(PROBLEMS, stream(0, "s"), Impatient(10))
    assert (found.complete, len(found.history)) == (False, 11)
    assert found.value == min(found.history)
    found = BatchedSearch(RULE, 1000, restarts=4, tolerance=15.0).run(PROBLEMS, stream(0, "s"), UNWATCHED)
    assert found.value < 15.0
    assert len(found.history) < 1000


def test_a_run_that_is_not_finite_does_not_touch_the_others() -> None:
    starts = iter([float("nan"), 0.3])

    def each(x: torch.Tensor) -> torch.Tensor:
        return x.pow(2).sum(-1)

    problem = Problem(
        lambda rng: [torch.full((2,), next(starts), dtype=DOUBLE)],
        lambda v: each(v[0]),
        lambda v: None,
        lambda v: each(v[0]),
    )
    found = BatchedSearch(RULE, 50, restarts=2).run([problem], stream(0, "s"), UNWATCHED)
    assert found.diverged == 1
    assert found.value == pytest.approx(0, abs=1e-2)


def test_a_problem_without_stacks_and_an_optimiser_without_are_refused() -> None:
    problem = replace(PROBLEMS[0], values=None)
    with pytest.raises(BadInput, match="use Search"):
        BatchedSearch(RULE, 5).run([problem], stream(0, "s"), UNWATCHED)
    with pytest.raises(BadInput, match="both must be at least 1"):
        BatchedSearch(RULE, 0)
    with pytest.raises(BadInput, match="batched=true was got with optimiser='lbfgs'"):
        SearchSettings(optimiser="lbfgs", batched=True)
    with pytest.raises(BadInput, match="batched=true was got with optimiser='lbfgs'"):
        with_fields(InvertingGradients(search=SearchSettings(batched=True)), optimiser="lbfgs")
    with pytest.raises(BadInput, match="steps=0, restarts=1: both must be at least 1"):
        SearchSettings(steps=0)
    with pytest.raises(BadInput, match=r"lr=0.0 must be above 0"):
        SearchSettings(lr=0.0)


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, lr=0.1)])
def test_inverting_gradients_batched_is_inverting_gradients(protocol: FedSGD | FedAvg) -> None:
    model, private = conv_bn(dtype=DOUBLE), batch(2, dtype=DOUBLE)
    knowledge = ServerKnowledge(model, labels=private.labels, local_training=protocol)
    attack = InvertingGradients(search=SearchSettings(steps=12, restarts=3))
    update = local_update(model, private, protocol)
    one = attack.reconstruct(update, knowledge, stream(0, "a"))
    two = with_fields(attack, batched=True).reconstruct(update, knowledge, stream(0, "a"))
    torch.testing.assert_close(two.inputs, one.inputs, rtol=1e-7, atol=1e-7)
    assert two.objective == pytest.approx(one.objective, rel=1e-7)
    assert SPEC.shape == two.inputs.shape[1:]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_cuda_device_a_captured_search_is_the_search() -> None:
    model, private = conv_bn().to("cuda"), batch(2)
    knowledge = ServerKnowledge(model, labels=private.labels, local_training=FedSGD())
    attack = InvertingGradients(search=SearchSettings(steps=40, restarts=3, batched=True))
    update = local_update(model, private, FedSGD())
    one = attack.reconstruct(update, knowledge, stream(0, "a"))
    two = with_fields(attack, graph=True).reconstruct(update, knowledge, stream(0, "a"))
    # The signs of gradients near 0 are those of rounding, so only the first iterations can be compared closely.
    assert two.objective[:8] == pytest.approx(one.objective[:8], rel=1e-3)
    assert min(two.objective) == pytest.approx(min(one.objective), rel=0.2)
