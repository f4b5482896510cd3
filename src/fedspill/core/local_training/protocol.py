"""Protocols of local training: what a client is told to compute, as data."""

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch

from fedspill.core.errors import BadInput
from fedspill.core.local_training.conditions import Conditions
from fedspill.core.local_training.optimizers import SGD, Optimizer
from fedspill.core.rng import stream

Curve = Literal["constant", "cosine", "linear", "step"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate of each local step, as a share of `lr`; counted anew in every round.

    Attributes:
        curve: "constant"; "cosine", as `CosineAnnealingLR` over all local steps; "linear", as `LinearLR` from 1; or
            "step", as `StepLR`.
        final: the share that "cosine" and "linear" reach after the last step.
        period: of "step", in local steps.
        gamma: by which "step" multiplies.
        warmup: local steps in which the rate rises to its first value, by equal steps; the curve follows on them.

    Raises:
        BadInput: a value is out of range.

    Example:
        >>> import fedspill
        >>> fedspill.Schedule("step", period=2, gamma=0.1).factor(2, 4)
        0.1
    """

    curve: Curve = "constant"
    final: float = 0.0
    period: int = 1
    gamma: float = 0.1
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.curve not in get_args(Curve):
            raise BadInput(f"schedule {self.curve!r} is unknown; there are {', '.join(get_args(Curve))}")
        if self.period < 1 or self.warmup < 0 or not (self.final >= 0 and self.gamma > 0):
            raise BadInput(
                f"schedule: period={self.period} must be 1 or more, warmup={self.warmup} and final={self.final} 0 or"
                f" more, gamma={self.gamma} above 0"
            )

    def factor(self, step: int, steps: int) -> float:
        """The share of `lr` that the step of this number, from 0, of so many steps takes."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done, whole = step - self.warmup, max(1, steps - self.warmup)
        match self.curve:
            case "constant":
                return 1.0
            case "cosine":
                return self.final + (1 - self.final) * (1 + math.cos(math.pi * done / whole)) / 2
            case "linear":
                return 1 + (self.final - 1) * done / whole
            case "step":
                return self.gamma ** (done // self.period)


@dataclass(frozen=True)
class FedSGD:
    """Send the mean gradient over all examples.

    Attributes:
        trainable: names of parameters, or patterns (`fnmatch`); ("head.*",) is head-only training, ("*",) whatever
            takes a gradient.
        conditions: precision, augmentation, and a norm to which the gradient is clipped before it is sent.
        draws: seed of what the client draws: augmentation and dropout; None is not known.

    Example:
        >>> import fedspill
        >>> fedspill.FedSGD(trainable=("head.*",)).trainable
        ('head.*',)
    """

    trainable: tuple[str, ...] = ("*",)
    conditions: Conditions = Conditions()
    draws: int | None = None

    def __str__(self) -> str:
        return _told(self)

    @property
    def is_plain(self) -> bool:
        """The gradient of the loss is sent as it is."""
        return self.conditions == Conditions()

    def of_client(self, number: int) -> "FedSGD":
        """The protocol as the client of this number, from 0, runs it: each draws for itself."""
        return replace(self, draws=_of_client(self.draws, number))

    def rng(self, step: int = 0, part: int = 0) -> torch.Generator | None:
        """What the client draws from; None if that is not known."""
        return None if self.draws is None else stream(self.draws, "step", step, part)


def _told(training: "FedSGD | FedAvg") -> str:
    """A protocol in few words: what differs from the defaults; parameters are counted."""
    changed = {f.name: getattr(training, f.name) for f in fields(training) if getattr(training, f.name) != f.default}
    if len(changed.get("trainable", ())) > 1:
        changed["trainable"] = f"{len(changed['trainable'])} parameters"
    return f"{type(training).__name__}({', '.join(f'{k}={v}' for k, v in changed.items())})"


Rows = slice | tuple[int, ...]
"""Which examples a mini-batch holds."""


@dataclass(frozen=True)
class FedAvg:
    """Train locally and send the change of the parameters (McMahan et al. 2017).

    Attributes:
        epochs: E, passes over the local examples.
        minibatch_size: B; None is one full batch. The last one of an epoch may be smaller.
        lr: step size.
        momentum: as in `torch.optim.SGD`; with `optimizer` it is said there.
        weight_decay: likewise.
        trainable: see `FedSGD`.
        optimizer: None is SGD with `momentum` and `weight_decay`.
        schedule: of the step size.
        conditions: how each gradient is taken, and clipped.
        proximal: mu of FedProx (Li et al. 2020): mu / 2 times the squared distance from the server's parameters is
            added to the loss.
        accumulate: mini-batches whose mean gradient makes one step; what is left at an epoch's end makes a step of
            its own, divided alike, as in the usual loop that divides each loss by this number.
        shuffle: each epoch goes through the examples in an order of its own; else in theirs.
        drop_last: a smaller last mini-batch of an epoch is left out.
        draws: seed of what the client draws: orders, augmentation, dropout; None is not known, and examples are then
            taken in their order.

    Raises:
        BadInput: a value is out of range, or two settings contradict each other.

    Example:
        >>> import fedspill
        >>> fedspill.FedAvg(epochs=5, minibatch_size=8, lr=0.01, momentum=0.9).lr
        0.01
    """

    epochs: int = 1
    minibatch_size: int | None = None
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    trainable: tuple[str, ...] = ("*",)
    optimizer: Optimizer | None = None
    schedule: Schedule = Schedule()
    conditions: Conditions = Conditions()
    proximal: float = 0.0
    accumulate: int = 1
    shuffle: bool = False
    drop_last: bool = False
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.minibatch_size is not None and self.minibatch_size < 1):
            raise BadInput(f"epochs={self.epochs}, minibatch_size={self.minibatch_size}: both must be at least 1")
        if not 0 < self.lr < math.inf:
            raise BadInput(f"lr={self.lr}: the local learning rate must be above 0")
        if not self.proximal >= 0 or self.accumulate < 1:
            raise BadInput(f"proximal={self.proximal} must be 0 or more, accumulate={self.accumulate} 1 or more")
        if self.optimizer is not None and (self.momentum or self.weight_decay):
            raise BadInput(
                f"momentum={self.momentum}, weight_decay={self.weight_decay} beside an optimizer; say them in"
                f" {type(self.optimizer).__name__}(...)"
            )
        self.rule  # noqa: B018 - momentum and weight decay are checked by SGD

    def __str__(self) -> str:
        return _told(self)

    @property
    def rule(self) -> Optimizer:
        """By which parameters follow their gradients."""
        return self.optimizer or SGD(self.momentum, weight_decay=self.weight_decay)

    @property
    def is_linear(self) -> bool:
        """Whether the end is linear in the start and in the steps' gradients."""
        return self.rule.is_linear and self.conditions.clip_norm is None

    def of_client(self, number: int) -> "FedAvg":
        """The protocol as the client of this number, from 0, runs it: each draws for itself."""
        return replace(self, draws=_of_client(self.draws, number))

    def rng(self, step: int, part: int = 0) -> torch.Generator | None:
        """What the client draws from in one mini-batch of a step; None if that is not known."""
        return None if self.draws is None else stream(self.draws, "step", step, part)

    def local_steps(self, num_examples: int) -> int:
        """How many steps a client with this many examples takes."""
        return self.epochs * -(-self._minibatches(num_examples) // self.accumulate)

    def used(self, num_examples: int) -> int:
        """How many of so many examples an epoch goes through."""
        size = self.minibatch_size or num_examples
        return min(num_examples, self._minibatches(num_examples) * size)

    def batches(self, num_examples: int) -> list[list[Rows]]:
        """The examples of the mini-batches of every local step.

        Raises:
            BadInput: `drop_last` leaves none.
        """
        if not self._minibatches(num_examples):
            raise BadInput(
                f"drop_last leaves nothing of {num_examples} examples with minibatch_size={self.minibatch_size}"
            )
        return [step for epoch in range(self.epochs) for step in self._epoch(epoch, num_examples)]

    def _minibatches(self, num_examples: int) -> int:
        size = self.minibatch_size or num_examples
        return num_examples // size if self.drop_last else -(-num_examples // size)

    def _epoch(self, epoch: int, num_examples: int) -> list[list[Rows]]:
        size, count = self.minibatch_size or num_examples, self._minibatches(num_examples)
        rows: list[Rows] = [slice(k * size, (k + 1) * size) for k in range(count)]
        if self.shuffle and self.draws is not None:
            order = torch.randperm(num_examples, generator=stream(self.draws, "order", epoch)).tolist()
            rows = [tuple(order[k * size : (k + 1) * size]) for k in range(count)]
        return [rows[k : k + self.accumulate] for k in range(0, count, self.accumulate)]


LocalTraining = FedSGD | FedAvg


def _of_client(draws: int | None, number: int) -> int | None:
    if draws is None:
        return None
    return int(torch.randint(2**62, (), generator=stream(draws, "client", number)))
