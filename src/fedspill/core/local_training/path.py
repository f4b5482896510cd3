"""The path of local training: how often each step's gradient is in a delta, and where on the path they are taken.

SGD with momentum, weight decay, a proximal term and a schedule is linear in the start value and in the gradients, so
that one run on single numbers, of the start value and of each step's gradient apart, tells all of it, for every
parameter. Adam and its kin, and gradients that are clipped, have no such path.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.optimizers import Memory
from fedspill.core.local_training.protocol import FedAvg


@dataclass(frozen=True)
class LocalPath:
    """What T local steps do: start - end = decay * start + gradient * (weighted mean of the T gradients).

    A step's gradient counts by what is left of it in the end: with momentum it moves the parameters in all later steps
    too, so that early gradients count more. The weights are the same for every parameter; hence a ratio dW / db of one
    example's constant input is exact.

    Attributes:
        decay: share of the start value that weight decay takes.
        gradient: what a constant gradient is multiplied by in the delta; lr T without momentum and weight decay.
        middle: where the mean gradient is taken: the weighted mean of the places of the T gradients, as a share of the
            way from start to end, exact for constant gradients. 0 after one step; (T - 1) / 2T without momentum and
            weight decay; less with momentum, more with weight decay. The gradient at this place is the mean gradient
            up to the square of the way's length.
    """

    decay: float
    gradient: float
    middle: float


def local_path(training: FedAvg, num_examples: int) -> LocalPath | None:
    """The path of a client with this many examples; None where its end is not linear in its gradients.

    Raises:
        BadInput: there is no example, or `drop_last` leaves no step.
    """
    if num_examples < 1:
        raise BadInput(f"num_examples={num_examples}: local training has at least 1 example")
    if not training.is_linear:
        return None
    values = _values(training, num_examples)
    moved = -values[:, 1:].sum(1)  # under a constant gradient, before each step and after the last one
    weights, whole = -values[-1, 1:], float(moved[-1])
    middle = float((weights * moved[:-1]).sum()) / whole / whole
    return LocalPath(decay=1.0 - float(values[-1, 0]), gradient=whole, middle=middle)


def step_weights(training: FedAvg, num_examples: int) -> Float[Tensor, " steps"]:
    """How often each step's gradient is in start minus end, over how often all are; they add up to 1.

    Args:
        training: whose end is linear in its gradients.
        num_examples: of the client.
    """
    weights = -_values(training, num_examples)[-1, 1:]
    return weights / weights.sum()


def _values(training: FedAvg, num_examples: int) -> Float[Tensor, "places runs"]:
    """Single numbers before each step and after the last: one that starts at 1, and one for each step's gradient."""
    batches = training.batches(num_examples)
    start = torch.zeros(len(batches) + 1, dtype=torch.float64)
    start[0] = 1.0
    values, memory = [start], Memory()
    for number, rows in enumerate(batches):
        share = len(rows) / training.accumulate  # less than 1 at an epoch's end
        gradient = share * training.proximal * (values[-1] - start)
        gradient[number + 1] += share
        lr = training.lr * training.schedule.factor(number, len(batches))
        value, memory = training.rule.step(values[-1], gradient, memory, lr)
        values.append(value)
    return torch.stack(values)
