"""Behind several local steps, against a plain loop of PyTorch in float64."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.attacks.softmax_disaggregation import SoftmaxDisaggregation
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.conditions import Conditions
from fedspill.core.local_training.optimizers import SGD, Adam
from fedspill.core.local_training.path import step_weights
from fedspill.core.local_training.protocol import FedAvg, Schedule
from fedspill.core.local_training.update import aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch, Reconstruction, Update, UpdateKind
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.local_steps.orders import Freedom, Order, neighbours
from fedspill.inversion.disaggregation.local_steps.replay import Clients, Space
from fedspill.inversion.disaggregation.local_steps.slopes import update_slopes
from fedspill.inversion.network.dense import dense_layers
from fedspill.inversion.network.trace import trace
from tests.support.heads import LIKE
from tests.support.worlds import batch, conv_bn, mlp, relu_mlp

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
        model.loss_fn(net(z[rows]), private.labels[rows]).backward()
        optimiser.step()
    moved = {k: model.params[k] - p.detach() for k, p in net.named_parameters()}
    return Update(UpdateKind.DELTA, moved)


def attacked(
    model: Model,
    update: Update,
    training: FedAvg,
    private: Batch = PRIVATE,
    *,
    granted: bool = True,
    clients: int = 1,
    rounds: int = 4,
) -> Reconstruction:
    known = ServerKnowledge(
        model,
        num_clients=clients,
        num_examples=len(private),
        labels=private.labels if granted else None,
        local_training=training,
    )
    return SoftmaxDisaggregation(rounds=rounds).reconstruct(update, known, stream(0, "attack"))


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


def test_training_in_the_row_space_is_the_clients_own() -> None:
    training = FedAvg(
        lr=0.1,
        epochs=2,
        minibatch_size=1,
        optimizer=SGD(0.5, nesterov=True, weight_decay=0.1),
        proximal=0.2,
        accumulate=2,
        schedule=Schedule("cosine"),
    )
    model, order = relu_mlp(dtype=torch.float64), Order.of(training, 4, 2)
    z = model.input.encode(PRIVATE.inputs)
    true = aggregate_update(model, z, PRIVATE.labels, training, 2).values
    whole = torch.cat([z.flatten(1), LIKE.new_ones(4, 1)], 1)
    space = Space(torch.linalg.qr(whole.T).Q.T, True, LIKE.new_ones(4))
    layers = dense_layers(trace(model))
    reduced = [replace(layers[0], bias=None), *layers[1:]]
    seen, params = space.within(layers[0], true), space.within(layers[0], model.params)
    clients = Clients(reduced, params, tuple(seen), training, LogitErrors.plain(10, LIKE), PRIVATE.labels)
    made = clients.update(space.mixing(z.flatten(1)), order)
    assert all(torch.allclose(made[k], v, atol=1e-12) for k, v in seen.items())
    assert torch.allclose(space.inputs(space.mixing(z.flatten(1))), z.flatten(1), atol=1e-9)


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


def test_a_sigmoid_network_whose_first_biases_are_not_trained() -> None:
    model, training = mlp(dtype=torch.float64), FedAvg(lr=0.05, minibatch_size=2, trainable=("*.weight", "3.bias"))
    private = PRIVATE[:3]
    update = aggregate_update(model, model.input.encode(private.inputs), private.labels, training)
    assert sorted(update.values) == ["1.weight", "3.bias", "3.weight"]
    check(attacked(model, update, training, private), private)


def test_two_clients_of_two_steps_each() -> None:
    model, training = relu_mlp(dtype=torch.float64), FedAvg(lr=0.01, minibatch_size=1)
    each = [plainly(model, PRIVATE, training, rows) for rows in ([[0], [1]], [[2], [3]])]
    mean = {k: (v + each[1].values[k]) / 2 for k, v in each[0].values.items()}
    check(attacked(model, Update(UpdateKind.DELTA, mean), training, clients=2))


def test_an_order_that_is_not_known_is_found() -> None:
    model, training = relu_mlp(dtype=torch.float64), FedAvg(lr=0.002, minibatch_size=1, shuffle=True)
    check(attacked(model, plainly(model, PRIVATE, training, [[2], [0], [3], [1]]), training))


@pytest.mark.parametrize("clients", [1, 2])
def test_an_order_whose_draws_are_known_is_the_clients_own(clients: int) -> None:
    model = relu_mlp(dtype=torch.float64)
    training = FedAvg(lr=0.05, epochs=2, minibatch_size=1, shuffle=True, draws=3)
    z = model.input.encode(PRIVATE.inputs)
    update = aggregate_update(model, z, PRIVATE.labels, training, clients)
    order = Order.of(training, 4, clients)
    assert order != Order.of(replace(training, draws=4), 4, clients)
    ends = list[dict[str, Tensor]]()
    for steps in order.clients:
        rows = [list(part) for step in steps for part in step]
        ends.append(dict(plainly(model, PRIVATE, training, rows).values))
    for k, v in update.values.items():
        assert torch.allclose(torch.stack([e[k] for e in ends]).mean(0), v, atol=1e-12)


def test_labels_that_are_not_granted_are_inferred() -> None:
    model, training = relu_mlp(dtype=torch.float64), FedAvg(lr=0.01, minibatch_size=2)
    found = attacked(model, plainly(model, PRIVATE, training, PAIRS), training, granted=False)
    check(found)
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == [0, 3, 8, 8]


def test_float32_is_enough() -> None:
    model, private = relu_mlp(), Batch(PRIVATE.inputs.float(), PRIVATE.labels)
    training = FedAvg(lr=0.01, minibatch_size=2)
    found = attacked(model, plainly(model, private, training, PAIRS), training, private)
    assert worst(found, PRIVATE) < 1e-3
    assert found.converged


def test_class_weights_are_shared_out_within_each_mini_batch() -> None:
    weighed = nn.CrossEntropyLoss(weight=torch.linspace(0.5, 2, 10), label_smoothing=0.1)
    model, private = replace(relu_mlp(), loss_fn=weighed), Batch(PRIVATE.inputs.float(), PRIVATE.labels)
    training = FedAvg(lr=0.01, minibatch_size=2)
    found = attacked(model, plainly(model, private, training, PAIRS), training, private)
    assert worst(found, PRIVATE) < 1e-3
    assert found.converged


@pytest.mark.parametrize("rate", [0.01, 0.011], ids=["noise", "another rate"])
def test_nothing_is_certified_of_an_update_that_training_does_not_give(rate: float) -> None:
    model, training = relu_mlp(dtype=torch.float64), FedAvg(lr=0.01, minibatch_size=2)
    update = plainly(model, PRIVATE, replace(training, lr=rate), PAIRS)
    noise = 1e-6 if rate == training.lr else 0.0
    noised = {k: v + noise * _rms(v) * randn(tuple(v.shape), stream(1, k), v) for k, v in update.values.items()}
    found = attacked(model, Update(update.kind, noised), training, rounds=1)
    assert not found.converged
    assert found.confidence is not None
    assert not bool(found.confidence.any())


def _rms(value: Tensor) -> Tensor:
    return value.square().mean().sqrt()


REFUSED = {
    "the protocol and the number": (relu_mlp, None),
    "by SGD without clipping": (relu_mlp, FedAvg(epochs=2, optimizer=Adam())),
    "without clipping, augmentation": (relu_mlp, FedAvg(epochs=2, conditions=Conditions(clip_norm=1.0))),
    "drop_last leaves some": (relu_mlp, FedAvg(epochs=2, minibatch_size=3, drop_last=True)),
    "does not hold '1.weight'": (relu_mlp, FedAvg(epochs=2, trainable=("5.*",))),
    "through fully connected networks": (conv_bn, FedAvg(epochs=2)),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_followed_is_refused_in_a_line(why: str) -> None:
    make, training = REFUSED[why]
    model = make(dtype=torch.float64)
    update = aggregate_update(model, model.input.encode(PRIVATE.inputs), PRIVATE.labels, training or FedAvg(epochs=2))
    known = ServerKnowledge(model, num_examples=4, labels=PRIVATE.labels, local_training=training)
    with pytest.raises(NotApplicable, match=why):
        SoftmaxDisaggregation().reconstruct(update, known, stream(0, "attack"))


def test_orders_that_might_be_as_well() -> None:
    labels, order = torch.tensor([1, 2, 1, 2]), Order.of(FedAvg(epochs=2, minibatch_size=2), 4, 1)
    assert order.clients == ((((0, 1),), ((2, 3),)) * 2,)
    alike = list(neighbours(order, labels, Freedom(places=False, epochs=False)))
    assert [o.clients[0][0] for o in alike] == [((2, 1),), ((0, 3),)]
    assert all(o.clients[0][:2] == o.clients[0][2:] for o in alike)
    # Four pairs of examples in different steps: in all epochs, in the first, or in the second.
    assert len(list(neighbours(order, labels, Freedom(places=True, epochs=True)))) == 12


def test_weights_of_steps_are_what_is_left_of_their_gradients() -> None:
    training = FedAvg(minibatch_size=1, lr=0.5, momentum=0.5, schedule=Schedule("step", period=1, gamma=0.1))
    # lr 0.5 and 0.05: the first gradient moves by 0.5 and, through the momentum, by 0.05 / 2; the second by 0.05.
    assert torch.allclose(step_weights(training, 2), LIKE.new_tensor([0.525, 0.05]) / 0.575)
