"""Reversible blocks against themselves run forwards, and what the classification layer's gradient shows of them."""

from dataclasses import replace

import pytest
import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.reversible.blocks import ReversibleNetwork, drawn
from fedspill.inversion.reversible.reading import read_reversible
from fedspill.testing.worlds import mlp

DOUBLE = torch.zeros((), dtype=torch.float64)
SHAPES = [(1, 4, 4), (3, 8, 8), (3, 6, 6), (3, 5, 7), (2, 1, 1), (5, 3, 4)]


def sent(shape: tuple[int, int, int], *, flat: bool = False) -> Model:
    network = ReversibleNetwork(shape, 5, blocks=3, hidden=4)
    params = dict(drawn(network, 0.5, stream(0, "net"), DOUBLE))
    if flat:
        params["head.weight"] = torch.zeros_like(params["head.weight"])
    return Model(network.eval(), params, {}, torch.nn.functional.cross_entropy, ImageSpec(shape))


def batch(shape: tuple[int, int, int], labels: list[int]) -> Batch:
    return Batch(rand((len(labels), *shape), stream(1, "data"), DOUBLE), torch.tensor(labels))


def read(model: Model, private: Batch, training: LocalTraining, **known: object) -> Reconstruction:
    update = local_update(model, private, training)
    held = ServerKnowledge(model, num_examples=len(private), local_training=training)
    return read_reversible(update, replace(held, **known), stream(0, "read"))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_network_run_backwards_gives_what_entered(shape: tuple[int, int, int]) -> None:
    network = sent(shape).own_module()
    assert isinstance(network, ReversibleNetwork)
    x, seen = batch(shape, [0, 1]).inputs, list[torch.Tensor]()
    network.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    network(x)
    torch.testing.assert_close(network.pictures(seen[0]), x)
    assert float((seen[0].view(2, -1) - x.flatten(1)).abs().max()) > 1e-2, "the blocks do something"


def test_a_picture_of_one_channel_and_odd_sides_is_refused() -> None:
    with pytest.raises(NotApplicable, match=r"\(1, 5, 5\) has one channel and an odd side"):
        ReversibleNetwork((1, 5, 5), 5, 2, 4)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_example_is_exact_and_certified_by_the_whole_update(shape: tuple[int, int, int]) -> None:
    private = batch(shape, [3])
    got = read(sent(shape), private, FedSGD())
    torch.testing.assert_close(got.inputs, private.inputs, rtol=0, atol=1e-8)
    assert got.converged
    assert got.labels is not None
    assert got.labels.tolist() == [3]


def test_what_local_training_moved_is_no_longer_certified() -> None:
    private, model = batch((3, 8, 8), [3]), sent((3, 8, 8))
    near, far = (read(model, private, FedAvg(epochs=5, lr=lr)) for lr in (1e-5, 1e-2))
    assert float((near.inputs - private.inputs).abs().max()) < 1e-3
    assert near.converged
    assert not far.converged


def test_a_flat_head_shows_an_example_of_each_class() -> None:
    private = batch((3, 8, 8), [3, 0, 2])
    got = read(sent((3, 8, 8), flat=True), private, FedSGD())
    assert got.converged
    assert got.labels is not None
    assert got.labels.tolist() == [0, 2, 3]
    torch.testing.assert_close(got.inputs, private.inputs[[1, 2, 0]], rtol=0, atol=1e-8)
    assert "Replayed" in got.notes[-1]


def test_a_class_with_two_examples_is_no_certain_picture() -> None:
    private = batch((3, 8, 8), [3, 3, 2])
    got = read(sent((3, 8, 8), flat=True), private, FedSGD())
    assert got.confidence is not None
    assert got.confidence.tolist() == pytest.approx([1.0, 0.5])
    torch.testing.assert_close(got.inputs[0], private.inputs[2], rtol=0, atol=1e-8)


def test_a_mixture_says_that_it_is_one() -> None:
    every = read(sent((3, 8, 8)), batch((3, 8, 8), [0, 1, 2, 3, 4]), FedSGD())
    assert not every.converged
    assert every.confidence is not None
    assert not every.confidence.any()
    assert "5 examples" in every.notes[0]
    unknown = read(sent((3, 8, 8)), batch((3, 8, 8), [0, 1]), FedSGD(), num_examples=None)
    assert not unknown.converged


def test_another_network_is_refused() -> None:
    model = mlp()
    renamed = replace(model, params={**model.params, "head.weight": torch.zeros(10, 192), "head.bias": torch.zeros(10)})
    update = local_update(sent((3, 8, 8)), batch((3, 8, 8), [1]), FedSGD())
    with pytest.raises(NotApplicable, match="Sequential is no network of reversible blocks"):
        read_reversible(update, ServerKnowledge(renamed, num_examples=1), stream(0, "r"))
