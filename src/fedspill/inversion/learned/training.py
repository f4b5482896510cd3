"""The training: Adam on the mean squared error under the best order, the best state on held-out pairs kept."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.roles import State, Watch
from fedspill.core.settings import Group
from fedspill.inversion.learned.assignment import in_canonical_order, ordered
from fedspill.inversion.learned.linear import Linear, constant, ridge
from fedspill.inversion.learned.network import Inverter, fresh
from fedspill.inversion.learned.pairs import Pairs


@dataclass(frozen=True)
class Learning(Group):
    """How a network is trained; all but `linear` as in arXiv 2210.10880 with its own numbers.

    Attributes:
        hidden: width of the two hidden layers.
        epochs: passes over the pairs, at most; 0 leaves the linear map as it is.
        minibatch: pairs of a step.
        lr: of Adam, falling by half a cosine to 0.
        patience: epochs without a better state on held-out pairs after which the training ends.
        linear: begin at a ridge regression; else at the mean of the public examples.

    Raises:
        BadInput: a number is out of range.
    """

    hidden: int = 3000
    epochs: int = 200
    minibatch: int = 256
    lr: float = 1e-4
    patience: int = 200
    linear: bool = False

    def __post_init__(self) -> None:
        if min(self.hidden, self.minibatch, self.patience) < 1 or self.epochs < 0 or not 0 < self.lr < 1:
            raise BadInput(
                f"hidden={self.hidden}, minibatch={self.minibatch}, patience={self.patience} must be 1 or more,"
                f" epochs={self.epochs} 0 or more, lr={self.lr} above 0 and below 1"
            )
        if not (self.epochs or self.linear):
            raise BadInput("epochs=0 with linear=false learns nothing; one of them must be set")


@dataclass(frozen=True)
class Learned:
    """What came of a training.

    Attributes:
        network: its best state on held-out pairs.
        curve: mean squared error on held-out pairs, in shares of that of the public mean: of the mean itself,
            of what training began at, and of the best state after each epoch.
    """

    network: Inverter
    curve: tuple[float, ...]


@dataclass
class Training:
    """One training, which a watch may keep and end.

    Attributes:
        pairs: with standardised features.
        held_out: likewise.
        may: which of a batch's examples may change places.
        seed: of weights and order.
        before: steps of work that came before, for the progress.
    """

    settings: Learning
    pairs: Pairs
    held_out: Pairs
    may: Bool[Tensor, "n n"]
    read: int
    seed: int
    before: int = 0

    def run(self, watch: Watch) -> Learned:
        """Until its epochs, its patience or the time is over; a broken training goes on where it was."""
        self._begin(watch.load())
        if self.settings.epochs == 0:
            return self._learned()
        total = self.before + self.settings.epochs * self.steps
        while not self.is_over:
            if watch.out_of_time() or not self._epoch(watch, total):
                break
            ended = watch.out_of_time()
            watch.save(self._state, last=ended)
        return self._learned()

    def _learned(self) -> Learned:
        self.network.load_state_dict(self.best)
        return Learned(self.network.eval().requires_grad_(False), tuple(self.curve))

    @property
    def is_over(self) -> bool:
        """Its epochs or its patience are at an end."""
        return self.epoch >= self.settings.epochs or self.since_best >= self.settings.patience

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return -(-len(self.pairs) // self.settings.minibatch)

    def _begin(self, state: Any) -> None:
        aimed, held = (Pairs(p.features, in_canonical_order(p.targets, self.may)) for p in (self.pairs, self.held_out))
        # Its error is that of an example, whatever its place.
        everywhere = self.pairs.targets.mean((0, 1)).repeat(self.pairs.targets.shape[1])
        mean = Linear(constant(aimed.targets.flatten(1)).weight, everywhere)
        start = ridge(aimed, held, self.read) if self.settings.linear else mean
        count, features = self.pairs.targets.shape[1], self.pairs.features.shape[1]
        self.network = fresh(start, features, self.settings.hidden, count, stream(self.seed, "weights"))
        self.scale = max(float((self.held_out.targets.flatten(1) - mean.offset).square().mean()), 1e-30)
        self.epoch, self.since_best = 0, 0
        self.curve = [1.0, self._error()]
        self.best = _copied(self.network)
        if self.settings.epochs:
            self.optimiser = torch.optim.Adam(self.network.body.parameters(), self.settings.lr)
        if state is not None and state["pairs"] == len(self.pairs):
            self._resume(state)

    def _resume(self, state: Any) -> None:
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best, self.curve = dict(state["best"]), list(state["curve"])
        self.epoch, self.since_best = state["epoch"], state["since_best"]

    def _state(self) -> State:
        return {
            "pairs": len(self.pairs),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "curve": self.curve,
            "epoch": self.epoch,
            "since_best": self.since_best,
        }

    def _epoch(self, watch: Watch, total: int) -> bool:
        """One pass; False where the time ended before its end."""
        self.network.train()
        order = torch.randperm(len(self.pairs), generator=stream(self.seed, "order", self.epoch))
        for step in range(self.steps):
            places = order[step * self.settings.minibatch : (step + 1) * self.settings.minibatch]
            self._step(places.to(self.pairs.features.device), step)
            watch.progress(self.before + self.epoch * self.steps + step + 1, total, self.curve[-1])
            if step + 1 < self.steps and watch.out_of_time():
                return self._judged(ended=True)
        return self._judged(ended=False)

    def _step(self, places: Tensor, step: int) -> None:
        done = (self.epoch + step / self.steps) / self.settings.epochs
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * (1 + cos(pi * done)) / 2
        made = self.network(self.pairs.features[places])
        loss = (made - ordered(made, self.pairs.targets[places], self.may)).square().mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def _judged(self, *, ended: bool) -> bool:
        """Keeps the state if it is the best; gives whether the epoch is complete."""
        error = self._error()
        better = error < min(self.curve)
        if better:
            self.best = _copied(self.network)
        self.since_best = 0 if better else self.since_best + 1
        self.curve.append(min(error, min(self.curve)))
        self.epoch += 0 if ended else 1
        return not ended

    def _error(self) -> float:
        made = self.network.eval()
        with torch.no_grad():
            return float(errors(made, self.held_out, self.may).mean()) / self.scale


def errors(network: Callable[[Tensor], Tensor], pairs: Pairs, may: Bool[Tensor, "n n"]) -> Float[Tensor, "m n"]:
    """Mean squared error of each example under the best order of its batch."""
    made = network(pairs.features)
    return (made - ordered(made, pairs.targets, may)).square().mean(2)


def _copied(network: Inverter) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
