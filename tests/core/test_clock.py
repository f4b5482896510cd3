"""Work is given up in its midst, forward and backward, and what was reached before stays."""

import math
import time
from contextlib import suppress

import pytest
import torch
from torch import Tensor

from fedspill.core.rng import stream
from fedspill.core.watching.clock import Clock, OutOfTime, Pace, unhurried, until
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import LBFGS, SignedAdam
from tests.support.watches import Ending


def chain(x: Tensor, links: int) -> Tensor:
    for _ in range(links):
        x = x.sin()
    return x.sum()


def test_work_ends_at_the_operation_after_the_time_is_up() -> None:
    made = list[int]()

    def work() -> None:
        for i in range(10):
            torch.zeros(2).add(1)
            made.append(i)

    with pytest.raises(OutOfTime), Clock(lambda: len(made) >= 3):
        work()
    assert made == [0, 1, 2]


def test_backward_passes_are_ended_too() -> None:
    x, asked = torch.ones(3, requires_grad=True), list[int]()

    def is_up() -> bool:
        asked.append(1)
        return len(asked) > 5

    value = chain(x, 20)
    with pytest.raises(OutOfTime), Clock(is_up):
        torch.autograd.grad(value, x)
    assert len(asked) == 6


def test_without_a_deadline_or_before_it_nothing_changes() -> None:
    x = torch.rand(5, generator=stream(0, "clock")).requires_grad_()
    (plain,) = torch.autograd.grad(chain(x, 4), x)
    for deadline in (None, time.monotonic() + 1000):
        with until(deadline):
            (same,) = torch.autograd.grad(chain(x, 4), x)
        assert torch.equal(plain, same)


def test_what_is_unhurried_is_not_ended() -> None:
    with Clock(lambda: True):
        with unhurried():
            assert float(torch.ones(2).sum()) == 2
        with pytest.raises(OutOfTime):
            torch.ones(2).sum()


def test_no_handler_of_faults_holds_it_up() -> None:
    def survives() -> None:
        with suppress(Exception):
            torch.ones(2).sum()

    with pytest.raises(OutOfTime), Clock(lambda: True):
        survives()


def test_a_pace_tells_once_what_an_evaluation_needs() -> None:
    told = list[tuple[float, int]]()
    pace = Pace(lambda: False, lambda seconds, memory: told.append((seconds, memory)))
    for _ in range(3):
        with pace.evaluation():
            kept = torch.zeros(1000)
            del kept
    assert len(told) == 1
    assert told[0][1] == 4000
    assert 0 < told[0][0] < 1


def long_problem(stop_at: int, watch: Ending) -> Problem:
    """A sum of squares whose `stop_at`-th evaluation goes on until the time is up."""
    calls = list[int]()

    def each(v: list[Tensor]) -> Tensor:
        calls.append(1)
        if len(calls) >= stop_at:
            watch.over = True
        return v[0].pow(2).flatten(1).sum(1)

    return Problem(
        lambda rng: [torch.rand(4, generator=rng) + 1],
        lambda v: each([v[0][None]])[0],
        lambda v: None,
        each,
    )


@pytest.mark.parametrize("search", [Search(SignedAdam(), 50), Search(LBFGS(), 50), BatchedSearch(SignedAdam(), 50, 2)])
def test_a_search_ended_in_the_midst_of_an_evaluation_gives_its_best(monkeypatch: pytest.MonkeyPatch, search) -> None:
    monkeypatch.setattr("fedspill.core.watching.clock.LONG", 0.0)
    watch = Ending()
    found = search.run([long_problem(6, watch)], stream(0, "s"), watch)
    assert not found.complete
    assert math.isfinite(found.value)
    assert float(found.variables[0].pow(2).sum()) == pytest.approx(found.value, rel=1e-6)


@pytest.mark.parametrize("search", [Search(SignedAdam(), 50), Search(LBFGS(), 50), BatchedSearch(SignedAdam(), 50, 2)])
def test_a_search_ended_in_its_first_evaluation_says_so(monkeypatch: pytest.MonkeyPatch, search) -> None:
    monkeypatch.setattr("fedspill.core.watching.clock.LONG", 0.0)
    watch = Ending()
    with pytest.raises(OutOfTime):
        search.run([long_problem(1, watch)], stream(0, "s"), watch)
