"""How many of each class there are, and where the next cutoff lies."""

import pytest
import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.rng import stream
from fedspill.inversion.fishing.catching import Catch
from fedspill.inversion.fishing.counting import easiest, members, rarest
from fedspill.inversion.fishing.cutoffs import Cutoff, unlike
from tests.support.worlds import mlp

DOUBLE = torch.float64


def biases_of(counts: list[int], everyone: torch.Tensor) -> torch.Tensor:
    """The mean over examples of p - [y], example by example."""
    labels = [c for c, n in enumerate(counts) for _ in range(n)]
    return torch.stack([everyone - torch.eye(len(counts), dtype=DOUBLE)[y] for y in labels]).mean(0)


@pytest.mark.parametrize("counts", [[1, 0, 3], [31, 33], [0, 0, 5], [1, 2, 0, 0, 64, 7]])
@pytest.mark.parametrize("told", [True, False])
def test_biases_tell_how_many_examples_each_class_has(counts: list[int], told: bool) -> None:
    everyone = torch.linspace(1, 2, len(counts), dtype=DOUBLE).softmax(0)
    knowledge = ServerKnowledge(mlp(), num_examples=sum(counts) if told else None)
    got = members(biases_of(counts, everyone).float().double(), everyone, knowledge)
    smallest = [c // int(torch.tensor([n for n in counts if n]).unique().min()) for c in counts]
    assert got == (counts if told or 1 in counts or counts == [31, 33] else smallest)


def test_a_gradient_of_another_scale_counts_nobody() -> None:
    everyone = torch.full((3,), 1 / 3, dtype=DOUBLE)
    shrunk = 0.3 * biases_of([1, 2, 4], everyone)
    assert members(shrunk, everyone, ServerKnowledge(mlp(), num_examples=7)) is None
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2])
    assert members(shrunk, everyone, ServerKnowledge(mlp(), num_examples=7, labels=labels)) == [1, 2, 4]


def test_the_class_to_fish_for() -> None:
    assert rarest([3, 0, 1]) == 1
    assert easiest([3, 0, 1, 1], frozenset()) == 2
    assert easiest([3, 0, 1, 1], frozenset({2})) == 3
    assert easiest([3, 0, 1, 1], frozenset({2, 3})) == 2
    assert easiest([3, 0, 2], frozenset()) == 2


def passing(values: torch.Tensor, cutoff: Cutoff) -> Catch | None:
    over = values > cutoff.value if cutoff.upwards else values < cutoff.value
    if not bool(over.any()):
        return None
    return Catch({}, values[over].mean()[None], float(over.double().mean()), int(over.sum()))


@pytest.mark.parametrize("upwards", [True, False])
@pytest.mark.parametrize("start", [-100.0, 0.0, 100.0])
def test_cutoffs_end_at_one_of_any_values(upwards: bool, start: float) -> None:
    values = torch.randn(64, generator=stream(0, "values"), dtype=DOUBLE)
    cutoff = Cutoff(torch.ones(1, dtype=DOUBLE), start, 1.0, upwards)
    for _ in range(160):
        cutoff = cutoff.after(passing(values, cutoff))
        if cutoff.done:
            break
    left = passing(values, cutoff)
    assert left is not None
    assert left.count == 1
    assert float(left.features) == float(values.max() if upwards else values.min())


def test_equal_values_end_it_too() -> None:
    values, cutoff = torch.ones(3, dtype=DOUBLE), Cutoff(torch.ones(1, dtype=DOUBLE), 0.0, 1.0, upwards=True)
    for _ in range(8):
        cutoff = cutoff.after(passing(values, cutoff))
    assert cutoff.done
    assert cutoff.value < 1


def test_a_direction_along_which_the_mean_is_nothing() -> None:
    mean = torch.rand(40, generator=stream(0, "mean"), dtype=DOUBLE)
    got = unlike(mean, stream(0, "direction"))
    assert abs(float(got @ mean)) < 1e-14
    assert float(got.norm()) == pytest.approx(1)
    assert bool(unlike(torch.zeros(40, dtype=DOUBLE), stream(0, "direction")).isfinite().all())


def test_a_single_example_that_is_heard_with_parts_of_others_moves_the_cutoff_towards_it() -> None:
    cutoff = Cutoff(torch.ones(1, dtype=DOUBLE), 2.0, 1.0, upwards=True)
    blurred = Catch({}, torch.tensor([3.0], dtype=DOUBLE), 0.1, 1, blurred=1e-3)
    assert cutoff.after(blurred).value == 2.5
    assert not cutoff.after(blurred).done
    assert cutoff.after(Catch({}, torch.tensor([3.0], dtype=DOUBLE), 0.1, 1, blurred=1e-7)).done
