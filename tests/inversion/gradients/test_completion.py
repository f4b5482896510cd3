"""A linear layer's gradient completed by its rank: against NumPy's singular values, and against what the client had."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.inversion.gradients.defended.completion import Completed, completion
from fedspill.inversion.gradients.defended.low_rank import Incomplete, error_of, of_rank
from fedspill.inversion.gradients.mean import mean_gradient

ANYTHING = torch.inf


def made(rank: int, rows: int = 30, columns: int = 60, seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=drawn, dtype=torch.float64)
    return left @ torch.randn(rank, columns, generator=drawn, dtype=torch.float64)


def told(values: Tensor, sent: Tensor, most: float = ANYTHING, deviation: float = 0.0) -> Incomplete:
    high = torch.full_like(values, most)
    return Incomplete(values, sent, -high, high, deviation)


@pytest.mark.parametrize("turned", [False, True])
def test_what_is_missing_of_a_matrix_of_low_rank_is_told_by_the_rest(turned: bool) -> None:
    whole = made(2).T if turned else made(2)
    sent = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    found = of_rank(told(whole * sent, sent), 2)
    assert float((found - whole).norm()) < 5e-3 * float(whole.norm())


def test_values_left_out_as_the_smallest_are_found_within_their_bounds() -> None:
    whole = made(2)
    level = float(whole.abs().quantile(0.5))
    sent = whole.abs() > level
    bounded = of_rank(told(whole * sent, sent, level), 2)
    assert float((bounded - whole).norm()) < 0.05 * float(whole.norm())
    assert float((bounded - whole)[~sent].norm()) < 0.3 * float(whole[~sent].norm())


def test_behind_noise_singular_values_are_shrunk_as_gavish_and_donoho_shrink_them() -> None:
    whole, deviation = made(2), 0.5
    noisy = whole + deviation * torch.randn(whole.shape, generator=torch.Generator().manual_seed(2)).double()
    u, s, v = np.linalg.svd(noisy.numpy(), full_matrices=False)
    beta, y = 30 / 60, s / (deviation * np.sqrt(60))
    kept = np.where(y > 1 + np.sqrt(beta), np.sqrt(np.maximum((y**2 - beta - 1) ** 2 - 4 * beta, 0)) / y, 0)
    kept[2:] = 0
    found = of_rank(told(noisy, torch.ones_like(noisy, dtype=torch.bool), deviation=deviation), 2)
    assert np.allclose(found.numpy(), (u * kept * deviation * np.sqrt(60)) @ v)
    assert float((found - whole).norm()) < 0.4 * float((noisy - whole).norm())


def test_noise_alone_is_nothing() -> None:
    noise = torch.randn(30, 60, generator=torch.Generator().manual_seed(3)).double()
    assert not bool(of_rank(told(noise, torch.ones_like(noise, dtype=torch.bool), deviation=1.2), 2).any())


def test_entries_that_were_held_out_tell_the_error() -> None:
    whole = made(3)
    sent = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    right, wrong = told(whole * sent, sent), told(torch.randn_like(whole) * sent, sent)
    good, size = error_of(right, 3, of_rank(right, 3))
    assert good < 0.05 * size
    bad, size = error_of(wrong, 3, of_rank(wrong, 3))
    assert bad > 0.5 * size


N = 3


def network() -> Model:
    """A perceptron with the same weights in every run."""
    drawn = stream(0, "network")
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 24), nn.ReLU(), nn.Linear(24, 10))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=drawn) / p.shape[-1] ** 0.5)
    return Model.of(net, ImageSpec((3, 6, 6), std=(0.25,)))


NET = network()
WEIGHT, BIAS = "1.weight", "1.bias"


def held(seed: int = 0) -> Batch:
    drawn = stream(seed, "private")
    return Batch(torch.rand(N, 3, 6, 6, generator=drawn), torch.randint(10, (N,), generator=drawn))


def defended(defence, seed: int = 0, /, **known) -> tuple[Update, Update, Completed | None]:
    private = held(seed)
    plain = local_update(NET, private, FedSGD())
    sent = defence.stages().protect(plain, ClientContext(NET, private, FedSGD()), stream(seed, "noise"))
    knowledge = replace(ServerKnowledge(NET, num_examples=N, defence=defence.known(NET)), **known)
    return plain, sent, completion(sent, knowledge).of(WEIGHT)


@pytest.mark.parametrize(
    ("defence", "left"),
    [
        (Pruning(0.5), 0.6),
        (Pruning(0.5, whole=True), 0.6),
        (PercentilePrivacy(10.0, 0.1), 0.6),
        (Quantisation(4), 0.8),
        (GradientNoise(0.3, relative=True, distribution="gaussian"), 0.8),
    ],
)
def test_a_layer_is_closer_to_what_the_client_computed(defence, left: float) -> None:
    for seed in range(3):
        plain, sent, found = defended(defence, seed)
        assert found is not None
        assert found.bias is not None
        whole = torch.cat([plain.values[WEIGHT], plain.values[BIAS][:, None]], 1).double()
        got = torch.cat([found.weight, found.bias[:, None]], 1)
        observed = torch.cat([sent.values[WEIGHT], sent.values[BIAS][:, None]], 1).double()
        error = float((got - whole).square().mean().sqrt())
        assert error < left * float((observed - whole).square().mean().sqrt())


def test_nothing_is_completed_where_rank_tells_nothing() -> None:
    defence = Pruning(0.5)
    assert defended(defence, num_examples=None)[2] is None
    assert defended(defence, num_examples=1)[2] is None
    assert defended(defence, num_examples=13)[2] is None
    assert defended(defence, num_clients=3)[2] is None
    assert defended(Pruning(0.99))[2] is None
    assert defended(Quantisation(1))[2] is None
    altered = KnownDefence(survivors=True, left_out=frozenset({WEIGHT}))
    assert defended(defence, 0, defence=altered)[2] is None


def test_an_update_without_a_known_defence_and_several_local_steps_stay_as_they_are() -> None:
    _, sent, _ = defended(Pruning(0.5))
    for knowledge in (
        ServerKnowledge(NET, num_examples=N),
        ServerKnowledge(NET, num_examples=N, local_training=FedAvg(epochs=2, lr=1.0), defence=Pruning(0.5).known(NET)),
    ):
        update = sent if knowledge.defence is None else Update(UpdateKind.DELTA, sent.values)
        value = mean_gradient(update, knowledge, [WEIGHT]).values[WEIGHT]
        assert torch.equal(value == 0, sent.values[WEIGHT] == 0)
