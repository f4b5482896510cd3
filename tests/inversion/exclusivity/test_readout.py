"""Neuron exclusivity: exact wherever its condition holds, and no mixture is vouched for."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fedspill.attacks.nex import NEX
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import NumericColumn, TableSpec
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.exclusivity.clusters import ratio_clusters
from tests.support.exclusivity import D64, PAPER, SPEC, STRONG, expected, mlp, pictures, read, sorted_labels


def errors(got: Reconstruction, batch: Batch) -> Tensor:
    """(n, m), root mean squared, of each candidate from each example."""
    return (batch.inputs[:, None] - got.inputs[None]).flatten(2).square().mean(2).sqrt()


def certified(got: Reconstruction) -> Tensor:
    return torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("hidden", [(300,), (400, 200)], ids=str)
@pytest.mark.parametrize("attack", [PAPER, STRONG], ids=["paper", "strong"])
def test_exact_wherever_the_condition_holds(attack: NEX, hidden: tuple[int, ...], dtype: torch.dtype) -> None:
    whole = partly = 0
    for seed in range(6):
        model, batch = mlp(*hidden, dtype=dtype, seed=seed), pictures(3 + seed, seed, dtype)
        found, got = expected(attack, model, batch), read(attack, model, batch)
        best, sure = errors(got, batch), certified(got)
        tight = 1e-9 if dtype == torch.float64 else 1e-5
        assert bool((best[found].amin(1) < tight).all())
        assert float(best[:, sure].amin(0).max()) < 1e-3, "nothing else is certified"
        if bool(found.all()):
            whole += 1
            assert got.converged
            assert len(got.inputs) == len(batch)
            assert sorted_labels(got.labels) == sorted_labels(batch.labels)
        elif attack is PAPER:
            partly += bool(found.any())
            assert not got.converged
    assert whole >= 2
    assert partly or attack is STRONG or len(hidden) == 2


def test_three_hidden_layers_and_those_without_a_bias() -> None:
    for bias in (None, (False,) * 4):
        model, batch = mlp(300, 200, 150, bias=bias, dtype=torch.float32), pictures(3, dtype=torch.float32)
        assert bool(expected(STRONG, model, batch).all())
        got = read(STRONG, model, batch, known=True)
        assert got.converged
        assert float(errors(got, batch).amin(1).max()) < 1e-4


def test_the_scale_comes_from_a_bias_or_is_a_guess_or_is_fitted() -> None:
    batch = pictures(3)
    blind, telling = mlp(300, bias=(False, False)), mlp(300, bias=(False, True))
    assert bool(expected(PAPER, blind, batch).all())
    assert float(errors(read(PAPER, telling, batch), batch).amin(1).max()) < 1e-6
    guessed, fitted = read(PAPER, blind, batch, known=True), read(STRONG, blind, batch, known=True)
    assert set(guessed.marks) == {"unsure"}
    assert not guessed.converged
    assert fitted.converged
    assert float(errors(fitted, batch).amin(1).max()) < 1e-6
    # The published scale is right for an example of which the network believes a third.
    z = SPEC.encode(batch.inputs)
    probability = blind.logits(blind.params, z).softmax(1)[torch.arange(3), batch.labels]
    factor = float((1 - probability[0]) / (2 / 3))
    stretched = SPEC.decode(z[:1] * factor)
    assert float((guessed.inputs - stretched).flatten(1).abs().amax(1).min()) < 1e-6


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 10])
def test_a_mixture_is_not_certified(classes: int, known: bool) -> None:
    for seed in range(4):
        model, batch = mlp(40, classes=classes, seed=seed), pictures(12, seed, classes=classes)
        for attack in (PAPER, STRONG):
            got = read(attack, model, batch, known=known)
            sure = certified(got)
            assert not bool(sure.any()) or float(errors(got, batch)[:, sure].amin(0).max()) < 1e-3
            assert not got.converged or int(sure.sum()) == 12


def test_proportional_derivatives_are_not_believed() -> None:
    # Two classes: all columns point along one line, so that units which two examples share agree as well.
    model, batch = mlp(60, classes=2), Batch(pictures(3).inputs, torch.zeros(3, dtype=torch.long))
    columns = local_update(model, batch, FedSGD()).values["3.weight"]
    fired = (columns != 0).any(0)
    assert len(ratio_clusters(columns, fired)[0].units) == int(fired.sum())
    for known in (True, False):
        got = read(PAPER, model, batch, known=known)
        sure = certified(got)
        assert not bool(sure.any()) or float(errors(got, batch)[:, sure].amin(0).max()) < 1e-6


def test_examples_of_one_class_and_an_example_that_is_there_twice() -> None:
    model, batch = mlp(300), Batch(pictures(4).inputs, torch.tensor([5, 5, 5, 2]))
    assert bool(expected(PAPER, model, batch).all())
    got = read(PAPER, model, batch)
    assert got.converged
    assert sorted_labels(got.labels) == [2, 5, 5, 5]
    twice = batch[[0, 1, 3, 3]]
    for known in (True, False):
        got = read(PAPER, model, twice, known=known)
        assert got.converged
        assert sorted_labels(got.labels) == [2, 2, 5, 5]
        assert (errors(got, twice) < 1e-9).sum(1).tolist() == [1, 1, 2, 2]


def test_dead_units_and_an_example_without_gradient() -> None:
    model, batch = mlp(300, dtype=torch.float32), pictures(4, dtype=torch.float32)
    bias = model.params["1.bias"].clone()
    bias[::3] = -100.0
    model = model.with_params({**model.params, "1.bias": bias})
    got = read(PAPER, model, batch, known=True)
    assert (errors(got, batch).amin(1) < 1e-5).tolist() == expected(PAPER, model, batch).tolist()
    sure = model.with_params(
        {**model.params, "3.bias": model.params["3.bias"] + 200 * functional.one_hot(batch.labels[0], 10)}
    )
    rest = batch.labels != batch.labels[0]
    got = read(PAPER, sure, batch, known=True)
    assert not got.converged, "what the network is sure of leaves no gradient"
    assert bool((errors(got, batch).amin(1)[rest & expected(PAPER, sure, batch)] < 1e-5).all())


def test_one_example_is_read_from_all_of_its_units() -> None:
    for known in (True, False):
        got = read(PAPER, mlp(20), pictures(1), known=known)
        assert got.converged
        assert float(errors(got, pictures(1))) < 1e-9


def test_a_delta_of_one_step_is_a_gradient_and_of_several_is_none() -> None:
    model, batch = mlp(300, dtype=torch.float32), pictures(3, dtype=torch.float32)
    got = read(PAPER, model, batch, FedAvg(lr=0.1), known=True)
    assert float(errors(got, batch).amin(1)[expected(PAPER, model, batch)].max()) < 1e-2
    with pytest.raises(NotApplicable, match="several local steps"):
        read(PAPER, model, batch, FedAvg(epochs=2, lr=0.1), known=True)


def test_rows_of_a_table() -> None:
    spec = TableSpec(tuple(NumericColumn(f"column {k}", 20.0, 10.0, 0.0, 60.0) for k in range(108)))
    model = mlp(300, spec=spec)
    batch = Batch(rand((3, 108), stream(0, "table"), D64) * 60, torch.tensor([1, 1, 4]))
    got = read(PAPER, model, batch)
    assert got.converged
    assert float((batch.inputs[:, None] - got.inputs[None]).abs().amax(2).amin(1).max()) < 1e-6
