"""Batches of which the head tells features badly, or a layer's equations are hardly more than its unknowns."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.recursion.equations.least_squares import Equations, as_columns, as_pictures
from fedspill.inversion.recursion.equations.partly_known import solved_around
from fedspill.inversion.recursion.equations.sharpened import sharpened
from fedspill.inversion.recursion.facts import Fact
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.recursion.layer_by_layer import Head, Recursion
from fedspill.inversion.recursion.mixing import Softmax, above, refined
from tests.inversion.recursion.test_batches import LIKE, World, blocks, model_of, numbers
from tests.support.worlds import CLASSES

TAPS = 3


def mixed_up(world: World, by: float) -> Head:
    """Features as the head tells them where it hardly tells examples apart, and the cotangents that follow."""
    mixing = torch.eye(len(world.features), dtype=LIKE.dtype) + by * numbers(*[len(world.features)] * 2, name="by")
    features = mixing @ world.features
    logits = world.flow.apply(world.flow.output, {world.flow.inputs(world.flow.output)[0]: features})
    residuals = torch.softmax(logits, 1) - functional.one_hot(world.labels, CLASSES)
    return Head(features, residuals / len(world.labels))


@pytest.mark.parametrize("by", [1e-6, 1e-3])
def test_gradients_of_the_upper_layers_make_up_for_features_that_the_head_tells_badly(by: float) -> None:
    world = World(blocks(96), 3)
    recursion = Recursion(world.flow, world.gradient, mixed_up(world, by))
    with torch.no_grad():
        recursion.run()
    assert {n.name for n, f in recursion.facts.items() if f.complete} >= {"relu_1", "relu_2", "add", "mean"}
    assert world.error(recursion) < 1e-7


def test_maps_are_refined_to_those_whose_gradients_were_sent() -> None:
    world = World(blocks(48), 2)
    start = next(n for n in world.flow if n.name == "relu_1")
    maps = world.truth["relu_1"]
    span = (numbers(2, 2, name="span") @ maps.flatten(1)).reshape(maps.shape)
    off = (torch.tensor([[1.0, 2e-3], [-1e-3, 0.999]]).to(maps) @ maps.flatten(1)).reshape(maps.shape)
    layers = Recursion(world.flow, world.gradient, world.head).layers
    softmax = Softmax.of(world.truth[world.flow.output.name], world.head.cotangents)
    known = above(world.flow, world.gradient, start, layers, softmax)
    assert known is not None
    found = refined(known, span, off)
    assert found.misfit < 1e-10
    torch.testing.assert_close(found.maps, maps, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.cotangents, world.head.cotangents, rtol=1e-8, atol=1e-11)


def test_nothing_is_refined_where_values_go_past_the_maps() -> None:
    world = World(blocks(48), 2)
    inside = next(n for n in world.flow if n.name == "relu_2")
    softmax = Softmax.of(world.truth[world.flow.output.name], world.head.cotangents)
    assert above(world.flow, world.gradient, inside, [], softmax) is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_s_derivatives_at_other_logits_follow_from_those_at_some(smoothing: float) -> None:
    labels, weight = torch.tensor([1, 4]), torch.linspace(1, 3, 6, dtype=LIKE.dtype)

    def slopes(logits: Tensor) -> Tensor:
        logits = logits.clone().requires_grad_()
        loss = functional.cross_entropy(logits, labels, label_smoothing=smoothing, weight=None if smoothing else weight)
        return torch.autograd.grad(loss, logits)[0]

    here, there = numbers(2, 6), numbers(2, 6, name="there")
    torch.testing.assert_close(Softmax.of(here, slopes(here)).cotangents(there), slopes(there))


def around(unknown: list[int], channels: int) -> tuple[Equations, Tensor, Fact]:
    """Planted equations of an input (2, c, 5, 5), and how many values of each of its channels are unknown."""
    shape = torch.Size((2, len(unknown), 5, 5))
    truth = numbers(50, len(unknown), name="truth")
    known = torch.ones_like(truth, dtype=torch.bool)
    for channel, count in enumerate(unknown):
        known[:count, channel] = False
    equations = Equations(shape)
    equations.rows.append(numbers(channels * TAPS, 50, name="rows"))
    equations.wanted.append(equations.rows[0] @ truth)
    equations.left_out.append(torch.zeros(channels, dtype=torch.bool))
    return equations, truth, Fact(as_pictures(truth.where(known, 0.0), shape), as_pictures(known, shape))


def test_a_channel_that_hardly_fires_above_is_solved_by_equations_that_the_others_prove() -> None:
    equations, truth, fact = around([6, 8, 6, 50], channels=18)
    found = solved_around(equations, [18], fact)
    assert found is not None
    assert bool(found.known.all())
    torch.testing.assert_close(as_columns(found.value), truth)


def test_a_channel_stays_unknown_where_the_equations_that_are_right_are_too_few() -> None:
    equations, truth, fact = around([6, 8, 6, 50], channels=17)
    equations.wanted[0][5 * TAPS : 6 * TAPS] += numbers(TAPS, 4, name="wrong unit")
    found = solved_around(equations, [17], fact)
    assert found is not None
    assert found.stray == [(0, 5)]
    kept = as_columns(found.known)
    assert kept.all(0).tolist() == [True, True, True, False], "48 equations for its 50 values"
    torch.testing.assert_close(as_columns(found.value)[kept], truth[kept])


def test_of_few_channels_that_are_determined_nothing_is_proven() -> None:
    equations, _, fact = around([50, 50, 50, 20], channels=17)
    assert solved_around(equations, [17], fact) is None


def test_knowing_of_zeros_takes_the_error_of_barely_determined_values_away() -> None:
    truth = numbers(60, 12).clamp_min(0)
    rows = numbers(64, 60, name="rows")
    targets = rows @ truth + 1e-7 * numbers(64, 12, name="noise")
    plain = torch.linalg.lstsq(rows, targets).solution
    found = sharpened(rows, targets, plain, torch.zeros_like(truth, dtype=torch.bool))
    assert found is not None
    assert torch.equal(found.value > 0, truth > 0)
    error = (found.value - truth).abs().max()
    assert error < 0.5 * (plain - truth).abs().max()
    assert error < 5 * found.error


def test_values_that_are_not_of_a_relu_are_not_put_to_zero() -> None:
    truth, rows = numbers(60, 12), numbers(80, 60, name="rows")
    assert sharpened(rows, rows @ truth, truth, torch.zeros_like(truth, dtype=torch.bool)) is None


def test_known_values_stay_as_they_are() -> None:
    truth, rows = numbers(60, 12).clamp_min(0), numbers(64, 60, name="rows")
    fixed = numbers(60, 12, name="fixed") > 0
    found = sharpened(rows, rows @ truth, truth, fixed)
    assert found is not None
    assert torch.equal(found.value[fixed], truth[fixed])
    torch.testing.assert_close(found.value, truth)


def test_pictures_of_a_batch_are_followed_as_far_as_their_activations_tell() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # noqa: TID251
        layers = [nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()]
        model = model_of(nn.Sequential(*layers, nn.Flatten(), nn.Linear(768, CLASSES)))
    z = World(model, 2).z
    known = KnownActivations(model, {"_3": Dataflow(model).until(["_3"])(z)[0]}, None)
    found = known.inverted(stream(0, "start"), UNWATCHED)
    assert float(known.errors(found).max()) < 4e-9
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)
