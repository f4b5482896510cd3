"""Long steps in turn under one watch: a killed run goes on where it was, and repeats no step."""

from collections.abc import Callable

import pytest
import torch

from fedspill.core.roles import State, Watch
from fedspill.core.watching.nested import PhaseWatch
from tests.support.watches import Kept


def counting(upto: int, steps: list[int]) -> Callable[[Watch], State]:
    """A step that counts, saves after every count, and goes on from what it saved."""

    def work(watch: Watch) -> State:
        state = watch.load()
        count = 0 if state is None else int(state["count"])
        while count < upto:
            count += 1
            steps.append(count)
            watch.progress(count, upto, 0.0)
            watch.save(lambda now=count: {"count": now})
        return {"sum": torch.tensor(float(upto))}

    return work


def both(watch: Watch, steps: list[int]) -> tuple[State, State]:
    stages = PhaseWatch(watch)
    return stages.run("first", counting(3, steps)), stages.run("second", counting(4, steps))


@pytest.mark.parametrize("killed_at", range(1, 9))
def test_a_kill_anywhere_repeats_nothing(killed_at: int) -> None:
    steps, watch = list[int](), Kept(killed_at=killed_at)
    with pytest.raises(KeyboardInterrupt):
        both(watch, steps)
    first, second = both(Kept(watch.state), steps)
    assert steps == [1, 2, 3, 1, 2, 3, 4]
    assert (float(first["sum"]), float(second["sum"])) == (3.0, 4.0)


def test_without_a_kill_every_step_runs_once() -> None:
    steps, watch = list[int](), Kept()
    both(watch, steps)
    assert steps == watch.heard == [1, 2, 3, 1, 2, 3, 4]
    assert watch.saves == 9
