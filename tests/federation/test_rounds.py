"""A federation over many rounds against a plain loop in bare PyTorch."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.protocol import FedAvg, FedSGD
from fedspill.core.local_training.update import local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.federation.rounds import Federation, ServerStep, seen_by_client, weighted

SPEC = ImageSpec((1, 6, 6), mean=(0.5,), std=(0.25,))
SIZES = (3, 5, 8, 2)
LIKE = torch.zeros((), dtype=torch.float64)


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).double()
    with torch.no_grad():
        for number, value in enumerate(net.parameters()):
            value.copy_(rand(tuple(value.shape), stream(number, "w"), value) - 0.3)
    return net


def clients() -> tuple[Batch, ...]:
    return tuple(
        Batch(rand((n, *SPEC.shape), stream(k, "client"), LIKE), torch.arange(n) % 5) for k, n in enumerate(SIZES)
    )


def plain(training: FedAvg, server: ServerStep, asked: Sequence[Sequence[int]], train: bool) -> nn.Module:
    """FedAvg with server momentum over state dicts, as tutorials write it."""
    net, data, velocity = network().train(train), clients(), dict[str, Tensor]()
    for chosen in asked:
        total, states = sum(SIZES[k] for k in chosen), list[dict[str, Tensor]]()
        for k in chosen:
            local = copy.deepcopy(net)
            optimizer = torch.optim.SGD(local.parameters(), lr=training.lr, momentum=training.momentum)
            for _ in range(training.epochs):
                for rows in range(0, SIZES[k], training.minibatch_size or SIZES[k]):
                    part = slice(rows, rows + (training.minibatch_size or SIZES[k]))
                    optimizer.zero_grad()
                    functional.cross_entropy(local(SPEC.encode(data[k].inputs[part])), data[k].labels[part]).backward()
                    optimizer.step()
            states.append(copy.deepcopy(local.state_dict()))
        old = net.state_dict()
        new = dict[str, Tensor]()
        names = {k for k, _ in net.named_parameters()}
        for name, value in old.items():
            mean = sum(SIZES[k] / total * s[name].double() for k, s in zip(chosen, states, strict=True))
            assert isinstance(mean, Tensor)
            if name not in names:
                new[name] = mean.to(value.dtype) if value.is_floating_point() else mean.floor().to(value.dtype)
                continue
            velocity[name] = server.momentum * velocity.get(name, torch.zeros_like(value)) + (value - mean)
            new[name] = value - server.lr * velocity[name]
        net.load_state_dict(new)
    return net


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize("server", [ServerStep(), ServerStep(0.7, 0.9)], ids=["mean", "momentum"])
def test_20_rounds_of_4_unequal_clients(train: bool, participation: float, server: ServerStep) -> None:
    training = FedAvg(epochs=2, minibatch_size=4, lr=0.02, momentum=0.5)
    federation = Federation(clients(), training, server, participation)
    model = Model.of(network(), SPEC, training=train)
    if not train:
        model = model.in_eval_mode()
    asked = [federation.asked(number) for number in range(20)]
    last = list(federation.rounds(model, 20, 7))[-1].after
    wanted = plain(training, server, asked, train)
    assert {len(a) for a in asked} == {round(4 * participation)}
    for name, value in wanted.state_dict().items():
        got = {**last.params, **last.buffers}[name]
        assert float((got.double() - value.double()).abs().max()) < 1e-9, name
    assert float((last.params["4.weight"] - model.params["4.weight"]).abs().max()) > 1e-2


def test_fedsgd_rounds_are_gradient_descent_on_all_examples() -> None:
    federation = Federation(clients(), FedSGD(), ServerStep(lr=0.1))
    model = Model.of(network(), SPEC)
    last = list(federation.rounds(model, 3, 0))[-1].after
    net, data = network().eval(), clients()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        inputs, labels = torch.cat([b.inputs for b in data]), torch.cat([b.labels for b in data])
        functional.cross_entropy(net(SPEC.encode(inputs)), labels).backward()
        optimizer.step()
    for name, value in net.named_parameters():
        assert torch.allclose(last.params[name], value.detach(), atol=1e-12)


def test_another_client_learns_the_mean_of_the_others_from_two_models() -> None:
    training = FedAvg(epochs=2, lr=0.05)
    federation = Federation(clients(), training, ServerStep(0.5, 0.9))
    rounds = list(federation.rounds(Model.of(network(), SPEC), 3, 0))
    for one in rounds:
        seen = seen_by_client(one, 1, SIZES)
        others = [k for k in range(4) if k != 1]
        each = {k: local_update(one.sent, clients()[k], training) for k in others}
        assert seen is not None
        for name, value in seen.values.items():
            mean: Any = sum(SIZES[k] * each[k].values[name] for k in others) / sum(SIZES[k] for k in others)
            assert torch.allclose(value, mean, atol=1e-12)
    # What it starts from is what the global models tell: the server's step, less what its momentum holds.
    moved = {k: (rounds[1].sent.params[k] - v) / 0.5 for k, v in rounds[1].after.params.items()}
    before = {k: (rounds[0].sent.params[k] - v) / 0.5 for k, v in rounds[0].after.params.items()}
    for name, value in (rounds[1].mean or rounds[0].mean).values.items():  # type: ignore[union-attr]
        assert torch.allclose(moved[name] - 0.9 * before[name], value, atol=1e-12)


def test_what_cannot_be_is_named() -> None:
    with pytest.raises(BadInput, match="momentum=1.0"):
        ServerStep(momentum=1.0)
    with pytest.raises(BadInput, match="participation=0"):
        Federation(clients(), FedSGD(), participation=0.0)
    alone = Federation(clients(), FedSGD(), participation=0.25)
    first = next(alone.rounds(Model.of(network(), SPEC), 1, 0))
    (only,) = first.answers
    assert seen_by_client(first, only, SIZES) is None
    with pytest.raises(BadInput, match="took no part in round 0"):
        seen_by_client(first, (only + 1) % 4, SIZES)


def test_another_client_learns_the_running_statistics_of_the_others() -> None:
    training = FedAvg(epochs=2, lr=0.05)
    federation = Federation(clients(), training, ServerStep(0.5, 0.9))
    for one in federation.rounds(Model.of(network(), SPEC, training=True), 2, 0):
        seen, others = seen_by_client(one, 1, SIZES), [0, 2, 3]
        each = {k: local_update(one.sent, clients()[k], training).buffers or {} for k in others}
        assert seen is not None
        assert seen.buffers is not None
        assert set(seen.buffers) == {"1.running_mean", "1.running_var"}, "counters are rounded"
        for name, value in seen.buffers.items():
            mean: Any = sum(SIZES[k] * each[k][name] for k in others) / sum(SIZES[k] for k in others)
            assert torch.allclose(value, mean, atol=1e-12)
            assert not torch.allclose(value, one.after.buffers[name], atol=1e-6), "its own share is out"


def test_running_statistics_are_averaged_over_those_who_send_them() -> None:
    values, shown = {"w": torch.ones(1)}, {"m": torch.tensor([4.0]), "count": torch.tensor(3)}
    answers = [(6, Update(UpdateKind.DELTA, values)), (2, Update(UpdateKind.DELTA, values, shown))]
    mean = weighted(answers)
    assert mean.buffers is not None
    assert (float(mean.buffers["m"]), int(mean.buffers["count"])) == (4.0, 3)
