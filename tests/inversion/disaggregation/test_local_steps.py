"""Behind several local steps, against a plain loop of PyTorch in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.softmax_disaggregation import SoftmaxDisaggregation
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.optimizers import Adam
from fedspill.core.local_training.path import step_weights
from fedspill.core.local_training.protocol import FedAvg, Schedule
from fedspill.core.local_training.update import aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.local_steps.orders import Freedom, Order, neighbours
from fedspill.inversion.disaggregation.local_steps.replay import Clients, Space
from fedspill.inversion.disaggregation.local_steps.slopes import update_slopes
from fedspill.inversion.network.dense import dense_layers
from fedspill.inversion.network.trace import trace
from tests.support.heads import LIKE
from tests.support.worlds import batch, conv_bn, linear, mlp, relu_mlp

PRIVATE = Batch(batch(4, dtype=torch.float64).inputs, torch.tensor([3, 8, 8, 0]))


def plainly(model: Model, private: Batch, training: FedAvg, order: list[list[int]]) -> Update:
    """What `torch.optim.SGD` makes of mini-batches in an order."""
    net = model.own_module()
    net.load_state_dict(dict(model.params))
    for p in net.parameters():
        p.requires_grad_()
    optimiser = torch.optim.SGD(net.parameters(), training.lr, training.momentum, weight_decay=training.weight_decay)
    z = model.input.encode(private.inputs)
    for rows in order:
        optimiser.zero_grad()
        functional.cross_entropy(net(z[rows]), private.labels[rows]).backward()
        optimiser.step()
    moved = {k: model.params[k] - p.detach() for k, p in net.named_parameters()}
    return Update(UpdateKind.DELTA, moved)


def attacked(
    model: Model, update: Update, training: FedAvg, private: Batch = PRIVATE, *, granted: bool = True, clients: int = 1
) -> Reconstruction:
    known = ServerKnowledge(
        model,
        num_clients=clients,
        num_examples=len(private),
        labels=private.labels if granted else None,
        local_training=training,
    )
    return SoftmaxDisaggregation().reconstruct(update, known, stream(0, "attack"))


def worst(found: Reconstruction, private: Batch = PRIVATE) -> float:
    apart = torch.cdist(private.inputs.flatten(1), found.inputs.double().flatten(1))
    return float(apart.min(1).values.max()) / private.inputs[0].numel() ** 0.5


def check(found: Reconstruction, private: Batch = PRIVATE) -> None:
    assert worst(found, private) < 1e-4
    assert found.confidence is not None
    assert found.confidence.tolist() == [1.0] * len(private)
    assert found.converged


ONE_EACH, PAIRS = [[0], [1], [2], [3]], [[0, 1], [2, 3]]
CASES = {
    "one example a step": (FedAvg(lr=0.01, minibatch_size=1), ONE_EACH),
    "large steps": (FedAvg(lr=0.1, minibatch_size=2), PAIRS),
    "two epochs": (FedAvg(lr=0.01, epochs=2, minibatch_size=2), PAIRS * 2),
    "three steps on all": (FedAvg(lr=0.01, epochs=3), [[0, 1, 2, 3]] * 3),
    "an uneven end": (FedAvg(lr=0.01, minibatch_size=3), [[0, 1, 2], [3]]),
    "momentum": (FedAvg(lr=0.01, minibatch_size=1, momentum=0.9), ONE_EACH),
    "weight decay": (FedAvg(lr=0.01, minibatch_size=2, weight_decay=0.1), PAIRS),
}


@pytest.mark.parametrize("case", CASES)
def test_the_examples_of_several_steps_are_exact(case: str) -> None:
    training, order = CASES[case]
    model = relu_mlp(dtype=torch.float64)
    check(attacked(model, plainly(model, PRIVATE, training, order), training))


def _space(model: Model, order: Order, labels: Tensor, training: FedAvg) -> tuple[Clients, Tensor]:
    layers = dense_layers(trace(model))
    basis = torch.linalg.qr(randn((193, len(labels)), stream(0, "test", "basis"), LIKE)).Q.T
    space = Space(basis, True, LIKE.new_ones(len(labels)))
    reduced = [replace(layers[0], bias=None), *layers[1:]]
    params = space.within(layers[0], model.params)
    clients = Clients(reduced, params, tuple(params), training, LogitErrors.plain(10, LIKE), labels)
    return clients, randn((len(labels), len(labels)), stream(1, "test", "mixing"), LIKE)


@pytest.mark.parametrize("make", [relu_mlp, mlp], ids=["relu", "sigmoid"])
def test_the_slopes_are_those_of_finite_differences(make) -> None:
    training = FedAvg(lr=0.1, epochs=2, minibatch_size=2, momentum=0.5, weight_decay=0.1, proximal=0.2, accumulate=2)
    order = Order.of(training, 4, 2)
    clients, mixing = _space(make(dtype=torch.float64), order, PRIVATE.labels, training)
    along = randn((2, 4, 4), stream(2, "test", "along"), LIKE)
    slopes, h = update_slopes(clients, mixing, along, order), 1e-7
    for k in range(2):
        ahead, behind = (clients.update(mixing + s * h * along[k], order) for s in (1, -1))
        for name, found in slopes.items():
            assert torch.allclose(found[k], (ahead[name] - behind[name]) / (2 * h), atol=1e-6)
