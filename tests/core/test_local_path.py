"""The path of local training against `torch.optim.SGD` on single numbers, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.local_training.path import local_path
from fedspill.core.local_training.steps import FedAvg

START = 0.7
MANY = [
    FedAvg(epochs=steps, lr=0.1, momentum=momentum, weight_decay=decay)
    for steps in (1, 2, 10)
    for momentum in (0.0, 0.9)
    for decay in (0.0, 0.1)
]


def trained(training: FedAvg, gradient: Callable[[int, Tensor], Tensor], start: float = START) -> list[float]:
    """A parameter before each step and after the last one; the gradient may depend on the step and on the parameter."""
    parameter = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimiser = torch.optim.SGD(
        [parameter], lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    values = [float(parameter.detach())]
    for step in range(training.epochs):
        parameter.grad = gradient(step, parameter.detach())
        optimiser.step()
        values.append(float(parameter.detach()))
    return values


def weights(training: FedAvg) -> list[float]:
    """How much of each step's gradient is in the delta, from runs with that gradient alone."""
    steps = range(training.epochs)
    return [-trained(training, lambda t, p, s=step: torch.ones_like(p) * (t == s), 0.0)[-1] for step in steps]


@pytest.mark.parametrize("training", MANY)
def test_the_delta_of_any_gradients(training: FedAvg) -> None:
    """It is decay * start + the weighted sum of the gradients, which is `gradient` times their weighted mean."""
    path, counts = local_path(training, 1), weights(training)
    values = trained(training, lambda t, p: torch.full_like(p, 1.0 + t * t))
    mean = sum(w * (1.0 + t * t) for t, w in enumerate(counts)) / sum(counts)
    assert values[0] - values[-1] == pytest.approx(path.decay * START + path.gradient * mean, rel=1e-12)
    assert path.gradient == pytest.approx(sum(counts), rel=1e-12)


@pytest.mark.parametrize("training", MANY)
def test_the_middle_is_the_mean_place_of_constant_gradients(training: FedAvg) -> None:
    values, counts = trained(training, lambda _, p: torch.full_like(p, 2.0)), weights(training)
    place = sum(w * v for w, v in zip(counts, values[:-1], strict=True)) / sum(counts)
    path = local_path(training, 1)
    assert values[0] - path.middle * (values[0] - values[-1]) == pytest.approx(place, rel=1e-12)


@pytest.mark.parametrize(("momentum", "middle"), [(0.0, 0.45), (0.9, 0.2110420584628457)])
def test_momentum_brings_the_middle_nearer_to_the_start(momentum: float, middle: float) -> None:
    assert local_path(FedAvg(epochs=10, momentum=momentum), 1).middle == pytest.approx(middle, rel=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("steps", [2, 10])
def test_on_a_parabola_the_error_falls_with_the_square_of_the_way(
    steps: int, momentum: float, weight_decay: float
) -> None:
    """The gradient at the middle is the mean gradient; at half of the way the first order stays."""
    right, half = list[float](), list[float]()
    for lr in (1e-3, 5e-4):
        training = FedAvg(epochs=steps, lr=lr, momentum=momentum, weight_decay=weight_decay)
        values, path = trained(training, lambda _, p: p - 2.0), local_path(training, 1)
        delta = values[0] - values[-1]
        mean = (delta - path.decay * START) / path.gradient
        right.append(abs(START - path.middle * delta - 2.0 - mean))
        half.append(abs(START - (steps - 1) / (2 * steps) * delta - 2.0 - mean))
    assert right[1] < 0.26 * right[0]
    assert right[0] < 1e-4
    if momentum == 0.9 and steps == 10:
        assert half[1] > 0.45 * half[0]
        assert half[0] > 50 * right[0]


def test_no_step_is_no_path() -> None:
    with pytest.raises(BadInput, match="num_examples=0"):
        local_path(FedAvg(), 0)
