"""Client optimisers as pure functions of parameters, gradients and state; differentiable, and equal to `torch.optim`.

A step of an optimiser takes the parameters that have a gradient; the others stay as they are, as `torch.optim` leaves
a parameter whose `.grad` is None.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from fedspill.core.errors import BadInput


@dataclass(frozen=True)
class Memory:
    """What an optimiser keeps of one parameter between steps.

    Attributes:
        steps: that the parameter has taken.
        tensors: by the names of `torch.optim`'s state.
    """

    steps: int = 0
    tensors: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


Step = tuple[Tensor, Memory]
"""A parameter after a step, and what is kept of it."""


@runtime_checkable
class Optimizer(Protocol):
    """One rule by which a parameter follows its gradient."""

    is_linear: ClassVar[bool]
    """Whether the end is linear in the start and in all gradients, with one weight for every parameter."""

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        ...


def _check(owner: object, named: Mapping[str, float], below: float = math.inf) -> None:
    """Each value is at least 0 and below a limit; NaN is in no range."""
    for name, value in named.items():
        if not 0 <= value < below:
            limit = "" if below == math.inf else f" and below {below:g}"
            raise BadInput(f"{type(owner).__name__}: {name}={value} must be at least 0{limit}")


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, as `torch.optim.SGD`.

    Attributes:
        momentum: in [0, 1).
        dampening: share by which a gradient enters the momentum less, from the second step on, in [0, 1).
        nesterov: looks ahead; needs a momentum and no dampening.
        weight_decay: added to the gradient, times the parameter.

    Raises:
        BadInput: a value is out of range, or Nesterov's rule has no momentum or a dampening.

    Example:
        >>> import fedspill
        >>> fedspill.FedAvg(lr=0.1, optimizer=fedspill.SGD(momentum=0.9, nesterov=True)).rule.momentum
        0.9
    """

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    is_linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check(self, {"momentum": self.momentum, "dampening": self.dampening}, 1.0)
        _check(self, {"weight_decay": self.weight_decay})
        if self.nesterov and (not self.momentum or self.dampening):
            raise BadInput(
                f"SGD: nesterov needs a momentum and no dampening, got momentum={self.momentum},"
                f" dampening={self.dampening}"
            )

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        gradient = gradient + self.weight_decay * value if self.weight_decay else gradient
        if not self.momentum:
            return value - lr * gradient, Memory(memory.steps + 1)
        held = memory.tensors.get("momentum_buffer")
        velocity = gradient if held is None else self.momentum * held + (1 - self.dampening) * gradient
        along = gradient + self.momentum * velocity if self.nesterov else velocity
        return value - lr * along, Memory(memory.steps + 1, {"momentum_buffer": velocity})


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015, arXiv 1412.6980), as `torch.optim.Adam`.

    Attributes:
        betas: decay of the mean and of the mean square of the gradient, each in [0, 1).
        eps: added to the root of the mean square.
        weight_decay: added to the gradient, times the parameter.
        amsgrad: the largest mean square so far is used (Reddi et al. 2018).

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.FedAvg(epochs=2, minibatch_size=8, lr=1e-3, optimizer=fedspill.Adam()).rule.betas
        (0.9, 0.999)
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    is_linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_moments(self, self.betas, self.eps, self.weight_decay)

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        gradient = gradient + self.weight_decay * value if self.weight_decay else gradient
        return adam_step(value, gradient, memory, lr, self.betas, self.eps, self.amsgrad)


@dataclass(frozen=True)
class AdamW:
    """Adam with weight decay beside the gradient (Loshchilov and Hutter 2019), as `torch.optim.AdamW`.

    Attributes:
        betas: see `Adam`.
        eps: see `Adam`.
        weight_decay: each step multiplies the parameter by 1 - lr weight_decay.
        amsgrad: see `Adam`.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.AdamW(weight_decay=0.05).weight_decay
        0.05
    """

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    amsgrad: bool = False
    is_linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_moments(self, self.betas, self.eps, self.weight_decay)

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        value = value * (1 - lr * self.weight_decay) if self.weight_decay else value
        return adam_step(value, gradient, memory, lr, self.betas, self.eps, self.amsgrad)


def _check_moments(owner: object, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    if len(betas) != 2:
        raise BadInput(f"{type(owner).__name__}: betas={betas} must be two numbers")
    _check(owner, {"betas[0]": betas[0], "betas[1]": betas[1]}, 1.0)
    _check(owner, {"eps": eps, "weight_decay": weight_decay})


def adam_step(
    value: Tensor,
    gradient: Tensor,
    memory: Memory,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    amsgrad: bool,
) -> Step:
    """A step of Adam by a gradient that holds the weight decay, if any."""
    steps, held = memory.steps + 1, memory.tensors
    zero = torch.zeros_like(value)
    mean = betas[0] * held.get("exp_avg", zero) + (1 - betas[0]) * gradient
    square = betas[1] * held.get("exp_avg_sq", zero) + (1 - betas[1]) * gradient.square()
    kept = {"exp_avg": mean, "exp_avg_sq": square}
    if amsgrad:
        kept["max_exp_avg_sq"] = square = torch.maximum(held.get("max_exp_avg_sq", zero), square)
    spread = root(square) / (1 - betas[1] ** steps) ** 0.5 + eps
    return value - lr / (1 - betas[0] ** steps) * mean / spread, Memory(steps, kept)


def root(square: Tensor) -> Tensor:
    """The square root, with a derivative of 0 at 0: there its share of any step's derivative vanishes."""
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Hinton's lecture), as `torch.optim.RMSprop`.

    Attributes:
        alpha: decay of the mean square, in [0, 1).
        eps: added to its root.
        weight_decay: added to the gradient, times the parameter.
        momentum: of the scaled gradients, in [0, 1).
        centered: the mean square is that of deviations from the mean.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.RMSprop(momentum=0.9).alpha
        0.99
    """

    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    is_linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check(self, {"alpha": self.alpha, "momentum": self.momentum}, 1.0)
        _check(self, {"eps": self.eps, "weight_decay": self.weight_decay})

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        gradient = gradient + self.weight_decay * value if self.weight_decay else gradient
        held, zero = memory.tensors, torch.zeros_like(value)
        square = self.alpha * held.get("square_avg", zero) + (1 - self.alpha) * gradient.square()
        kept, spread = {"square_avg": square}, square
        if self.centered:
            kept["grad_avg"] = mean = self.alpha * held.get("grad_avg", zero) + (1 - self.alpha) * gradient
            spread = (square - mean.square()).clamp_min(0)
        along = gradient / (root(spread) + self.eps)
        if self.momentum:
            kept["momentum_buffer"] = along = self.momentum * held.get("momentum_buffer", zero) + along
        return value - lr * along, Memory(memory.steps + 1, kept)


@dataclass(frozen=True)
class Adagrad:
    """Adagrad (Duchi et al. 2011), as `torch.optim.Adagrad`.

    Attributes:
        lr_decay: step t is multiplied by 1 / (1 + (t - 1) lr_decay).
        weight_decay: added to the gradient, times the parameter.
        initial_accumulator_value: of the sum of squares.
        eps: added to its root.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.Adagrad().eps
        1e-10
    """

    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    is_linear: ClassVar[bool] = False

    def __post_init__(self) -> None:
        named = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        _check(self, {name: float(getattr(self, name)) for name in named})

    def step(self, value: Tensor, gradient: Tensor, memory: Memory, lr: float) -> Step:
        """One parameter after one step."""
        gradient = gradient + self.weight_decay * value if self.weight_decay else gradient
        held = memory.tensors.get("sum")
        total = (torch.full_like(value, self.initial_accumulator_value) if held is None else held) + gradient.square()
        rate = lr / (1 + memory.steps * self.lr_decay)
        return value - rate * gradient / (root(total) + self.eps), Memory(memory.steps + 1, {"sum": total})


OPTIMIZERS: dict[str, type[SGD | Adam | AdamW | RMSprop | Adagrad]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}
"""By the names that plans use."""
