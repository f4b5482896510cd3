"""Optimisers of `torch.optim` and protocols, as a plan's clients."""

from typing import Any

import pytest
import torch
from torch import nn

import fedspill
from fedspill.core.local_training.update import FedAvg, FedSGD
from fedspill.plan.file import parse_plan
from fedspill.plan.from_python import optimizer_keys, with_optimizer, with_training
from fedspill.plan.training import training_of
from fedspill.testing.worlds import SPEC, batch, relu_mlp

NET = relu_mlp().module


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), {"lr": 0.1, "momentum": 0, "weight_decay": 0}),
        (lambda p: torch.optim.SGD(p, 0.1, 0.9, 0, 1e-4), {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}),
        (
            lambda p: torch.optim.SGD(p, 0.1, 0.9, nesterov=True),
            {
                "lr": 0.1,
                "optimizer": {"name": "sgd", "momentum": 0.9, "dampening": 0, "nesterov": True, "weight_decay": 0},
            },
        ),
        (
            lambda p: torch.optim.Adam(p, torch.tensor(1e-2), (0.8, 0.99), amsgrad=True),
            {
                "lr": pytest.approx(1e-2),
                "optimizer": {"name": "adam", "betas": [0.8, 0.99], "eps": 1e-8, "weight_decay": 0, "amsgrad": True},
            },
        ),
        (
            lambda p: torch.optim.AdamW(p),
            {
                "lr": 1e-3,
                "optimizer": {
                    **{"name": "adamw", "betas": [0.9, 0.999], "eps": 1e-8},
                    **{"weight_decay": 1e-2, "amsgrad": False},
                },
            },
        ),
        (
            lambda p: torch.optim.RMSprop(p, momentum=0.5),
            {
                "lr": 1e-2,
                "optimizer": {
                    **{"name": "rmsprop", "alpha": 0.99, "eps": 1e-8},
                    **{"weight_decay": 0, "momentum": 0.5, "centered": False},
                },
            },
        ),
        (
            lambda p: torch.optim.Adagrad(p, lr_decay=0.1),
            {
                "lr": 1e-2,
                "optimizer": {
                    **{"name": "adagrad", "lr_decay": 0.1, "weight_decay": 0},
                    **{"initial_accumulator_value": 0, "eps": 1e-10},
                },
            },
        ),
    ],
)
def test_an_optimiser_of_torch_in_a_plans_keys(made: Any, wanted: dict[str, Any]) -> None:
    assert optimizer_keys(made(NET.parameters()), NET) == {"trainable": ["*"], **wanted}


def test_what_the_optimiser_holds_is_what_is_trained() -> None:
    held = [p for name, p in NET.named_parameters() if name.startswith("5.")]
    assert optimizer_keys(torch.optim.SGD(held, 0.1), NET)["trainable"] == ["5.weight", "5.bias"]


class Own(torch.optim.SGD):
    """A step of its own, for all that is known."""


def _stepped() -> torch.optim.Optimizer:
    net = nn.Linear(2, 2)
    made = torch.optim.Adagrad(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    made.step()
    return made


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda p: Own(p, 0.1), "optimizer is Own; there are SGD, Adam, AdamW, RMSprop, Adagrad"),
        (lambda p: torch.optim.Adamax(p), "optimizer is Adamax"),
        (lambda p: _stepped(), "has taken steps"),
        (lambda p: torch.optim.SGD(p, 0.1, maximize=True), "maximize=True"),
        (lambda p: torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1), "parameters that are not the model's"),
        (
            lambda p: torch.optim.SGD([{"params": [q], "lr": 0.1 * (k + 1)} for k, q in enumerate(p)]),
            "groups with different lr",
        ),
    ],
)
def test_optimisers_that_no_client_is_run_with(made: Any, said: str) -> None:
    with pytest.raises(fedspill.BadInput, match=said):
        optimizer_keys(made(NET.parameters()), NET)


def test_a_plan_with_an_optimiser_trains_as_a_plain_loop_does() -> None:
    private, model = batch(4), relu_mlp()
    net = model.module
    net.load_state_dict(dict(model.params))
    plan = {
        "audit": {"attacks": [{"name": "dlg", "steps": 1, "restarts": 1}]},
        "client": {"protocol": "fedavg", "num_examples": 4, "minibatch_size": 2, "epochs": 3},
        "model": {"dtype": "float64"},
    }
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    pair = (private.inputs, private.labels)
    told = fedspill.audit(plan, model=net, data=pair, normalise=(SPEC.mean, SPEC.std), optimizer=optimizer).report
    twin = relu_mlp(dtype=torch.float64)
    loop = twin.module.double()
    loop.load_state_dict(dict(twin.params))
    steps = torch.optim.SGD(loop.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    z = SPEC.encode(private.inputs.double())
    for _ in range(3):
        for part in (slice(0, 2), slice(2, 4)):
            steps.zero_grad()
            nn.functional.cross_entropy(loop(z[part]), private.labels[part]).backward()
            steps.step()
    moved = torch.cat([(twin.params[k] - v.detach()).flatten() for k, v in loop.named_parameters()])
    assert told.trials[0].gradient_norm == pytest.approx(float(moved.norm()), rel=1e-6)


def test_a_protocol_goes_into_the_plan_and_comes_out_of_it() -> None:
    plan = parse_plan({"client": {"num_examples": 4}})
    for training in (FedAvg(), FedAvg(3, 2, 0.01, 0.9, 1e-4, ("fc.*",)), FedSGD(), FedSGD(("head.*",))):
        made = with_training(plan, training)
        assert training_of(made.client) == training
        assert made.client.num_examples == 4


def test_an_optimiser_is_said_once() -> None:
    net = relu_mlp().module
    made = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(fedspill.BadInput, match=r"optimizer is given, and the plan sets client.lr; set one of them"):
        with_optimizer(parse_plan({"client": {"protocol": "fedavg", "lr": 0.1}}), made, net)
    with pytest.raises(fedspill.BadInput, match="the plan's protocol is 'fedsgd', which takes no step"):
        with_optimizer(parse_plan({"client": {"protocol": "fedsgd"}}), made, net)
    with pytest.raises(fedspill.BadInput, match="with local_training it is part of that"):
        fedspill.audit({}, model=net, local_training=FedAvg(), optimizer=made)
