"""Local training as one gradient: what a client sends after many small steps is nearly a gradient at a point between.

The change of the parameters over a round, divided by its steps, is the mean of the gradients on the way. Where the way
is nearly straight, that is the gradient at its middle, up to the square of the way's length, and the server knows both
ends. One gradient is then matched instead of a whole training. Zhu, Yao, Blaschko: "Surrogate Model Extension (SME):
A Fast and Accurate Weight Update Attack on Federated Learning", ICML 2023, arXiv:2306.00127, which searches for the
place on the way; here it follows from the protocol, for constant gradients.

Corrected by training: every so many evaluations the candidate is trained on as the client did, without a graph, and the
observed gradient is moved by what this training is off its own gradient. There the two differ by exactly as much as the
trainings do, so that the search has the zeros of matching the training itself, at little more than the cost of matching
one gradient. Only the derivative is that of the one gradient. NL-SME (arXiv:2509.22082) and AWA (arXiv:2308.06822)
correct it in other ways (docs/recursion.md).
"""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.local_training.path import local_path
from fedspill.core.local_training.protocol import FedAvg, FedSGD
from fedspill.core.local_training.update import aggregate_update, encoded_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching

FEW = 8
"""Random examples at most."""
BENT = 0.3
"""Cosine distance between local training and its surrogate, on random examples, from which on it is no first guess."""


@dataclass(frozen=True)
class Surrogate:
    """A gradient that stands in for a delta.

    Attributes:
        sent: the model as the clients got it.
        local: their training.
        model: with parameters between those that were sent and those that came back.
        update: the mean gradient over the local steps.
        clients: whose training it is, on equal shares of the examples.
        off: cosine distance of training and surrogate on random examples.
    """

    sent: Model
    local: FedAvg
    clients: int
    model: Model
    update: Update
    off: float

    @property
    def training(self) -> FedSGD:
        """The protocol under which the model gives the update."""
        return FedSGD(trainable=tuple(self.update.values))

    def corrected(self, z: Float[Tensor, "n ..."], labels: Tensor, *, alike: bool = False) -> Params:
        """The update, less what local training on these examples is off; exact at the clients' examples.

        Args:
            alike: only directions count, so what it is off is brought to the length of the clients' training.
        """
        delta = aggregate_update(self.sent, z, labels, self.local, self.clients)
        trained = _middle(self.sent, delta, self.local, self.clients, len(labels)).update
        there = aggregate_update(self.model, z, labels, self.training, self.clients).values
        scale = self.update.norm() / trained.norm() if alike else 1.0
        if not math.isfinite(scale):
            return self.update.values
        return {k: v + scale * (there[k] - trained.values[k]) for k, v in self.update.values.items()}


def find_surrogate(model: Model, delta: Update, training: FedAvg, labels: Tensor, clients: int) -> Surrogate | None:
    """The gradient that stands in for a delta, or None where none does.

    It needs local steps on equally many examples, no batch statistics of parts of the examples, and a way that is not
    bent too much, which is judged by training on a few random examples, about as far as the clients went.

    Args:
        labels: (n,) of all clients' examples.
    """
    share = len(labels) // clients
    size = training.minibatch_size or share
    uneven = training.used(share) % size or training.local_steps(share) % training.epochs
    if uneven or not training.is_linear or (model.training and (size < share or clients > 1)):
        return None
    exact = _middle(model, delta, training, clients, len(labels))
    if exact.model is model:
        return exact
    off = _bend(model, delta, _full_batches(training, share), labels[:FEW])
    return replace(exact, off=off) if off < BENT else None


def _full_batches(training: FedAvg, share: int) -> FedAvg:
    """As many steps, each on all examples."""
    return replace(training, epochs=training.local_steps(share), minibatch_size=None, accumulate=1, drop_last=False)


def _bend(model: Model, delta: Update, training: FedAvg, labels: Tensor) -> float:
    """What a gradient is off of training on random examples with these labels; infinite where it diverges."""
    z = randn((len(labels), *model.input.encoded_shape), stream(0, "surrogate"), model.like)
    further = encoded_update(model, z, labels, training).norm() / delta.norm()
    if not math.isfinite(further) or further == 0:
        return math.inf
    # As far as the clients went: of a network that knows their examples less than random ones would take it.
    alike = replace(training, lr=training.lr / further)
    tried = _middle(model, encoded_update(model, z, labels, alike), alike, 1, len(labels))
    gradient = encoded_update(tried.model, z, labels, tried.training).values
    off = float(cosine_distance(_double(gradient), _double(tried.update.values)))
    return max(0.0, off) if math.isfinite(off) else math.inf


def _middle(model: Model, delta: Update, training: FedAvg, clients: int, examples: int) -> Surrogate:
    path, start = local_path(training, examples // clients), model.params
    assert path is not None, "find_surrogate() asks for a linear training"
    between = {k: start[k] - path.middle * d for k, d in delta.values.items()}
    gradient = {k: (d - path.decay * start[k]) / path.gradient for k, d in delta.values.items()}
    middle = replace(model, params={**start, **between}) if path.middle else model
    return Surrogate(model, training, clients, middle, Update(UpdateKind.GRADIENT, gradient, delta.buffers), 0.0)


def _double(values: Params) -> dict[str, Tensor]:
    return {k: v.double() for k, v in values.items()}


EVERY = 5
"""Evaluations between two looks at the candidate's training."""
SETTLED = 0.01
"""Share of the distance by which a correction must move the observed gradient to be made."""


@dataclass
class CorrectedMatching:
    """The distance of one search's candidates.

    Attributes:
        matching: with the stand-in's model and update.
    """

    matching: Matching
    surrogate: Surrogate
    _calls: int = field(default=0, init=False)
    _last: float = field(default=0.0, init=False)

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable once in `z`."""
        if self._calls % EVERY == 0:
            self._correct(z.detach(), labels)
        self._calls += 1
        value = self.matching(z, labels)
        if self._calls % EVERY == 0:
            self._last = float(value.detach())
        return value

    def _correct(self, z: Tensor, labels: Tensor) -> None:
        values, held = self.surrogate.corrected(z, labels, alike=True), self.matching.observed.values
        moved = torch.stack([(values[k] - v).pow(2).sum() for k, v in held.items()]).sum()
        size = torch.stack([v.pow(2).sum() for v in held.values()]).sum()
        if float(moved / size) / 2 > SETTLED * self._last:
            self.matching.release()
            self.matching = replace(self.matching, observed=replace(self.surrogate.update, values=values))
