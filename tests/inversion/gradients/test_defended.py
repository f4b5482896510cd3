"""Closed forms of a fully connected layer whose gradient a defence changed, by an attacker who knows it."""

import math

import pytest
import torch

from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext
from fedspill.core.types import Update
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.svt_privacy import SVTPrivacy
from fedspill.inversion.gradients.defended.posterior import Entries, posterior_input
from fedspill.inversion.gradients.layer import Layer, layer_gradient
from fedspill.inversion.gradients.linear import layer_input, row_groups
from tests.support.worlds import batch, relu_mlp

MODEL = relu_mlp()
WEIGHT, BIAS = (
    next(k for k in MODEL.params if k.endswith("weight")),
    next(k for k in MODEL.params if k.endswith("bias")),
)


DRAWS = 12


def error(defence, known: bool) -> float:
    """Mean squared error of the layer's input, of one example at a time."""
    return sum(error_of(defence, known, seed) for seed in range(DRAWS)) / DRAWS


def error_of(defence, known: bool, seed: int) -> float:
    private = batch(1, seed=seed)
    update = local_update(MODEL, private, FedSGD())
    sent = defence.stages().protect(update, ClientContext(MODEL, private, FedSGD()), stream(seed, "noise"))
    knowledge = ServerKnowledge(MODEL, num_examples=1, defence=defence.known(MODEL) if known else None)
    x = layer_gradient(sent, knowledge, Layer(WEIGHT, BIAS)).input()
    return float((x - MODEL.input.encode(private.inputs)[0].flatten().double()).square().mean())


@pytest.mark.parametrize(
    ("defence", "times"),
    [
        (Pruning(0.7), 1.5),
        (Pruning(0.7, whole=True), 1.5),
        (GradientNoise(0.3, relative=True, distribution="gaussian"), 1.5),
        (GradientNoise(1.0, relative=True, distribution="gaussian"), 2.0),
        (PercentilePrivacy(percentile=20.0, gamma=0.02), 1.5),
        (PercentilePrivacy(percentile=0.0, gamma=0.05), 1.5),
        (SVTPrivacy(fraction=0.5, epsilon=10.0, noise_var=100.0, gamma=1.0, tau=0.0), 1.5),
    ],
)
def test_who_knows_the_defence_reads_the_input_better(defence, times: float) -> None:
    assert times * error(defence, known=True) < error(defence, known=False)


@pytest.mark.parametrize("defence", [Quantisation(8), GradientNoise(1e-3, relative=True), Pruning(0.0)])
def test_who_knows_of_a_weak_defence_reads_no_worse(defence) -> None:
    assert error(defence, known=True) <= 1.05 * error(defence, known=False) + 1e-12


def test_without_a_defence_nothing_changes() -> None:
    update = local_update(MODEL, batch(1), FedSGD())
    plain = layer_gradient(update, ServerKnowledge(MODEL), Layer(WEIGHT, BIAS))
    same = layer_gradient(update, ServerKnowledge(MODEL, defence=KnownDefence(("gating",))), Layer(WEIGHT, BIAS))
    assert torch.equal(plain.input(), same.input())
    assert torch.equal(plain.input(), layer_input(update.values[WEIGHT], update.values[BIAS]))


def test_places_that_were_sent_are_averaged_by_the_rows_that_sent_them() -> None:
    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 9.0, 0.0]]).double()
    bias = torch.tensor([1.0, 3.0]).double()
    assert layer_input(weight, bias, weight != 0).tolist() == [2.0, 3.0, 0.0]
    (group,) = row_groups(weight, bias, floor=0.0, told=weight != 0)
    assert group.x.tolist() == [2.0, 3.0, 0.0], "what both sent is the bias alone, and there they agree"


def outer(noise: float, seed: int = 0, sent: float = 1.0) -> tuple[torch.Tensor, Entries]:
    """A normal input with the entries of a layer of 12 rows that saw it, of which a share was sent."""
    rng = torch.Generator().manual_seed(seed)
    x, delta = (torch.randn(k, generator=rng, dtype=torch.float64) for k in (40, 12))
    both = torch.outer(delta, torch.cat([x, torch.ones(1)]))
    both = both + noise * torch.randn(both.shape, generator=rng, dtype=torch.float64)
    mask = torch.rand(both.shape, generator=rng) < sent
    return x, Entries(both[:, :-1], both[:, -1], mask[:, :-1], mask[:, -1], noise)


def test_under_little_noise_the_input_is_of_the_nearest_matrix_of_rank_one() -> None:
    _, entries = outer(1e-3)
    right = torch.linalg.svd(torch.cat([entries.weight, entries.bias[:, None]], 1)).Vh[0]
    torch.testing.assert_close(posterior_input(entries), right[:-1] / right[-1], rtol=1e-4, atol=1e-4)


def test_without_noise_a_place_is_told_by_rows_whose_bias_was_not_sent() -> None:
    x, entries = outer(0.0, sent=0.25)
    told = entries.weight_sent.any(0)
    told_at_once = (entries.weight_sent & entries.bias_sent[:, None]).any(0)
    assert bool((told & ~told_at_once).any()), "or nothing is shown"
    read = posterior_input(entries)
    torch.testing.assert_close(read[told], x[told], rtol=1e-6, atol=1e-6)
    assert float(read[~told].abs().sum()) == 0.0


@pytest.mark.parametrize("noise", [0.3, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("sent", [1.0, 0.3])
def test_what_noise_hides_is_shrunk_and_never_worse_than_the_mean(noise: float, sent: float) -> None:
    errors = []
    for seed in range(10):
        x, entries = outer(noise, seed, sent)
        errors.append(float((posterior_input(entries) - x).square().mean() / x.square().mean()))
    assert sum(errors) / len(errors) < 1.05, "1 is that of the mean"


def test_a_common_unit_of_the_gradient_changes_nothing() -> None:
    _, entries = outer(0.2)
    small = Entries(1e-9 * entries.weight, 1e-9 * entries.bias, entries.weight_sent, entries.bias_sent, 0.2e-9)
    torch.testing.assert_close(posterior_input(small), posterior_input(entries))


def test_the_noise_of_the_mean_is_the_rows_own() -> None:
    update: Update = local_update(MODEL, batch(4), FedSGD())
    knowledge = ServerKnowledge(MODEL, num_examples=4, defence=KnownDefence(noise=0.3, noise_of_sum=1.6))
    gradient = layer_gradient(update, knowledge, Layer(WEIGHT, BIAS, gain=2.0))
    assert gradient.deviation == pytest.approx(math.hypot(0.3, 0.4) / 2)


def test_few_entries_with_a_little_noise_never_make_the_input_larger_than_inputs_are() -> None:
    rng = torch.Generator().manual_seed(3)
    truth, delta = (torch.randn(n, generator=rng, dtype=torch.float64) for n in (768, 64))
    clean, sent = torch.outer(delta, truth), torch.rand(64, 768, generator=rng) < 0.02
    bias_sent = torch.rand(64, generator=rng) < 0.02
    noisy = clean + 0.01 * torch.randn(64, 768, generator=rng, dtype=torch.float64)
    bias = delta + 0.01 * torch.randn(64, generator=rng, dtype=torch.float64)
    read = posterior_input(Entries(noisy * sent, bias * bias_sent, sent, bias_sent, 0.01))
    assert float((read - truth).square().mean()) < 0.4 * float(truth.square().mean())
