"""False alarms: no honest network raises one, whoever initialised it, and however it is stored."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fedspill
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Batch
from fedspill.zoo.models import build
from tests.support.worlds import batch, conv_bn, mlp, relu_mlp

SCHEMES: dict[str, Callable[[Tensor], object]] = {
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "truncated_normal": lambda w: nn.init.trunc_normal_(w, std=0.02),
}


def initialised(model: Model, scheme: str, seed: int) -> Model:
    params = {k: v.clone() for k, v in model.params.items()}
    with seeded_globals(stream(seed, "scheme", scheme)):
        for value in params.values():
            SCHEMES[scheme](value) if value.ndim > 1 else None
    return replace(model, params=params)


def eight_bits(value: Tensor) -> Tensor:
    step = value.abs().max().clamp_min(1e-30) / 127
    return (value / step).round() * step


def thinned(value: Tensor) -> Tensor:
    if value.ndim < 2:
        return value
    return value * (value.abs() > value.abs().flatten().kthvalue(max(1, value.numel() // 2)).values)


STORED: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda v: v,
    "float16": lambda v: v.half().float(),
    "int8": eight_bits,
    "pruned": thinned,
}


def alarms(model: Model, previous: Model | None = None) -> list[str]:
    found = fedspill.vet(model, previous=previous, reference=model)
    return [f"{f.rule_id} {f.where}" for f in found if f.severity >= 0.5]


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("name", ["lenet", "resnet20", "cnn"])
def test_trained_or_untrained_a_network_raises_no_alarm(name: str, stored: str) -> None:
    weights = "untrained" if name == "resnet20" else "trained"
    model = build(name, input_shape=(3, 32, 32), num_classes=10, weights=weights)
    assert alarms(replace(model, params={k: STORED[stored](v) for k, v in model.params.items()})) == []


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(3))
def test_however_it_is_initialised(scheme: str, seed: int) -> None:
    for name in ("lenet", "convnet"):
        options = {"width": 8} if name == "convnet" else {}
        model = build(name, input_shape=(3, 32, 32), num_classes=10, options=options)
        assert alarms(initialised(model, scheme, seed)) == []


@pytest.mark.parametrize("make", [mlp, relu_mlp, conv_bn])
def test_rounds_of_honest_training_raise_no_alarm(make: Callable[[], Model]) -> None:
    model, private = make(), batch(16)
    before = model
    for _ in range(3):
        after = _trained(before, private)
        assert alarms(after, before) == []
        before = after


def _trained(model: Model, private: Batch) -> Model:
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    step = torch.optim.SGD(params.values(), lr=0.1, momentum=0.9)
    z = model.input.encode(private.inputs)
    for _ in range(5):
        step.zero_grad()
        model.loss(params, z, private.labels).backward()
        step.step()
    return model.with_params({k: v.detach() for k, v in params.items()})
