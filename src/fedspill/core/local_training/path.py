"""The path of local training: how often each step's gradient is in a delta, and where on the path they are taken.

SGD with momentum and weight decay is linear in the start value and in the gradients, so that two runs on single
numbers, one of the start value and one of a constant gradient, tell all of it, for every parameter and step size.
"""

from dataclasses import dataclass

from fedspill.core.errors import BadInput
from fedspill.core.local_training.steps import FedAvg


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


def local_path(training: FedAvg, steps: int) -> LocalPath:
    """The path of a client that takes `steps` steps.

    Raises:
        BadInput: there is no step.
    """
    if steps < 1:
        raise BadInput(f"steps={steps}: local training has at least 1 step")
    moved = [-value for value in _values(training, steps, 0.0, 1.0)]
    whole = moved[-1]
    # The gradient of step t acts for T - t steps; that of the first of k steps is what k steps move more than k - 1 do.
    weights = [moved[steps - t] - moved[steps - t - 1] for t in range(steps)]
    middle = sum(w * m for w, m in zip(weights, moved[:-1], strict=True)) / whole / whole
    return LocalPath(decay=1.0 - _values(training, steps, 1.0, 0.0)[-1], gradient=whole, middle=middle)


def _values(training: FedAvg, steps: int, start: float, gradient: float) -> list[float]:
    """A parameter before each step and after the last one, under a constant gradient."""
    values, velocity = [start], 0.0
    for _ in range(steps):
        velocity = training.momentum * velocity + gradient + training.weight_decay * values[-1]
        values.append(values[-1] - training.lr * velocity)
    return values
