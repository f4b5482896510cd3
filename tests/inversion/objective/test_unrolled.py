"""The vector-Jacobian product through local steps, against the graph of all of them; float64."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, aggregate_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.objective import matching
from fedspill.inversion.objective import unrolled as module
from fedspill.inversion.objective.autograd import product
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.unrolled import graph_bytes, pays, unrolled
from tests.support.worlds import SPEC, batch, conv_bn, mlp, relu_mlp

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)
PLAIN = FedAvg(epochs=7, lr=0.3)
HEAVY = FedAvg(epochs=3, minibatch_size=2, lr=0.2, momentum=0.9, weight_decay=0.05)
PROTOCOLS = [
    FedAvg(lr=0.3),
    PLAIN,
    FedAvg(epochs=2, minibatch_size=1, lr=0.3, weight_decay=0.1),
    FedAvg(epochs=4, minibatch_size=2, lr=0.2, momentum=0.5),
    HEAVY,
    replace(HEAVY, trainable=("*.weight",)),
]

MODELS = {
    "conv": conv_bn(dtype=DOUBLE),
    "conv in train mode": conv_bn(training=True, dtype=DOUBLE),
    "relu": relu_mlp(dtype=DOUBLE),
}


def draw(n: int, soft: bool) -> tuple[torch.Tensor, torch.Tensor]:
    rng = stream(5, "test", "unrolled")
    z, logits = (randn((n, *shape), rng, LIKE) for shape in (SPEC.shape, (10,)))
    labels = logits.softmax(1) if soft else batch(n).labels
    return z.requires_grad_(), labels.requires_grad_(soft)


@pytest.mark.parametrize("states", [module.STATES, 0])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("training", PROTOCOLS)
def test_it_is_the_product_of_the_graph_of_all_steps(monkeypatch, training, model, clients, soft, states) -> None:
    monkeypatch.setattr(module, "STATES", states)
    z, labels = draw(6, soft)
    wanted = [v for v in (z, labels) if v.requires_grad]
    expected = aggregate_update(model, z, labels, training, clients, create_graph=True).values
    update, pullback = unrolled(model, z, labels, training, clients)
    rng = stream(1, "test", "direction")
    direction = {k: randn(tuple(v.shape), rng, LIKE) for k, v in expected.items()}
    assert list(update) == list(expected)
    assert not any(v.requires_grad for v in update.values())
    for k, v in expected.items():
        torch.testing.assert_close(update[k], v.detach(), rtol=1e-12, atol=1e-15)
    want = product(list(expected.values()), list(direction.values()), wanted)
    for _ in range(2):  # it may be asked again
        for got, one in zip(pullback(direction), want, strict=True):
            torch.testing.assert_close(got, one, rtol=1e-10, atol=1e-11 * float(one.abs().max()))


def test_a_parameter_without_a_direction_counts_as_zero() -> None:
    z, labels = draw(2, False)
    model = mlp(dtype=DOUBLE)
    update, pullback = unrolled(model, z, labels, PLAIN)
    zeros = {k: torch.zeros_like(v) for k, v in update.items()} | {"1.bias": torch.ones_like(update["1.bias"])}
    torch.testing.assert_close(pullback({"1.bias": zeros["1.bias"]}), pullback(zeros))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("clients", [1, 2])
def test_the_objective_is_the_same_with_and_without_the_graph(monkeypatch, clients, training) -> None:
    model, private = conv_bn(training=training, dtype=DOUBLE), batch(4, dtype=DOUBLE)
    observed, (z, labels) = local_update(model, private, HEAVY), draw(4, True)
    found = []
    for graphs in (1 << 40, 0):
        monkeypatch.setattr(module, "GRAPHS", graphs)
        calls = []
        monkeypatch.setattr(matching, "unrolled", lambda *a, c=calls: (c.append(1), unrolled(*a))[1])
        found.append(Matching(model, observed, HEAVY, clients, cosine_distance).value_and_gradients(z, labels))
        assert len(calls) == (graphs == 0)
    (value, gradients), (same, others) = found
    torch.testing.assert_close(same, value, rtol=1e-12, atol=0)
    for got, want in zip(others, gradients, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11 * float(want.abs().max()))


def test_graphs_are_kept_where_they_are_small(monkeypatch) -> None:
    z, labels = draw(4, False)
    size = graph_bytes(conv_bn(dtype=DOUBLE), z[:2], labels[:2], HEAVY)
    for clients, steps in ((1, 6), (2, 6)):  # of all clients together
        for limit, expected in ((steps * size, False), (steps * size - 1, True)):
            monkeypatch.setattr(module, "GRAPHS", limit)
            assert pays(conv_bn(dtype=DOUBLE), z, labels, HEAVY, clients) is expected
    assert not pays(conv_bn(dtype=DOUBLE), z, labels, FedAvg(), 1)


class Counting(nn.Module):
    """A layer that reads what its last step wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1
        return x * self.steps


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), Counting()])
def test_graphs_are_kept_of_steps_that_may_not_be_computed_twice(monkeypatch, layer) -> None:
    monkeypatch.setattr(module, "GRAPHS", 0)
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), layer, nn.Linear(192, 10))
        z, labels = draw(2, False)
        for training in (False, True):
            model = Model.of(net, SPEC, training=training).to("cpu", DOUBLE)
            assert pays(model, z, labels, PLAIN, 1) is not training


def test_the_bytes_of_a_step_hold_its_activations() -> None:
    z, labels = draw(4, False)
    model = relu_mlp(dtype=DOUBLE)
    model.logits(model.params, z)  # a network's first call is handed a copy of the input
    one, four = (graph_bytes(model, z[:n], labels[:n], PLAIN) for n in (1, 4))
    hidden = 8 * (24 + 16)  # what ReLUs keep of an example; the second-order graph keeps gradients of the same shape
    assert 3 * 2 * hidden <= four - one <= 3 * 4 * hidden


def test_unequal_shares_are_told() -> None:
    z, labels = draw(3, False)
    with pytest.raises(BadInput, match="3 examples cannot be shared out equally to 2 clients"):
        unrolled(mlp(dtype=DOUBLE), z, labels, PLAIN, 2)
