"""The vector-Jacobian product of many local steps, in the memory of one step and of the parameters between steps.

Reverse-mode differentiation through gradient descent (Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492), with the
states between steps kept instead of run backwards. Of a step

    v' = momentum v + grad L(theta) + weight_decay theta,    theta' = theta - lr v'

and a cotangent (a', b') of (theta', v') the gradient takes w = b' - lr a', and (theta, v) take

    a = a' + weight_decay w + H w,    b = momentum w,

where H w and the share of the inputs, d/dz <grad L, w>, are one double differentiation of this step alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedspill.core.local_training.steps import FedAvg, LocalState, first_state, local_step, loss_gradients, minibatches
from fedspill.core.local_training.update import equal_shares
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.types import Params
from fedspill.inversion.objective.autograd import product

Pullback = Callable[[Params], list[Tensor]]
"""A cotangent of an update, by name and 0 where lacking, to the gradients of those of (z, labels) that require one."""

GRAPHS = 3 << 27
"""Bytes of the graphs of all local steps past which they are not kept: less memory, 1.3 to 1.6 times the time."""
STATES = 1 << 29
"""Bytes of the parameters between local steps from which on not all are kept."""


def unrolled(model: Model, z: Tensor, labels: Tensor, training: FedAvg, clients: int = 1) -> tuple[Params, Pullback]:
    """What `aggregate_update` gives, without a graph, and its vector-Jacobian product.

    Costs one evaluation of the gradient more per local step than a graph of all steps, two where the parameters
    between steps are too large to be kept.

    Args:
        model: in eval mode, or `repeatable`.
        z: examples (n, ...) of `clients` clients, equal and consecutive shares.

    Raises:
        BadInput: the examples cannot be shared out equally.
    """
    spacing = _spacing(model, training, len(z) // clients, clients)
    runs = [_Run(model, z[p], labels[p], training, spacing) for p in equal_shares(len(z), clients)]
    ends = [run.forward() for run in runs]
    update = {k: torch.stack([end[k] for end in ends]).mean(0) for k in ends[0]} if clients > 1 else ends[0]

    def pullback(direction: Params) -> list[Tensor]:
        each = [run.backward({k: d / clients for k, d in direction.items()}) for run in runs]
        return [torch.cat(shares) for shares in zip(*each, strict=True)]

    return update, pullback


def pays(model: Model, z: Tensor, labels: Tensor, training: FedAvg, clients: int) -> bool:
    """Whether the graphs of all local steps are large, judged by that of one, and steps may be computed twice."""
    share = equal_shares(len(z), clients)[0]
    steps = training.local_steps(len(z[share])) * clients
    first = minibatches(training, len(z[share]))[0]
    if steps == 1 or (model.training and not repeatable(model, z[first].detach())):
        return False
    return steps * graph_bytes(model, z[first], labels[first], training) > GRAPHS


def repeatable(model: Model, z: Tensor) -> bool:
    """Whether a step in train mode may be computed twice, with the buffers that it had, which count as constants.

    Not with dropout, which draws anew; nor with buffers of other layers than BatchNorm, which may be read after they
    were written.
    """
    owners = [m for m in model.module.modules() if next(m.buffers(recurse=False), None) is not None]
    with torch.no_grad():
        logits = [model.logits(model.params, z) for _ in range(2)]
    return all(isinstance(m, BATCH_NORMS) for m in owners) and torch.equal(*logits)


def graph_bytes(model: Model, z: Tensor, labels: Tensor, training: FedAvg) -> int:
    """What one local step leaves in memory until it is differentiated, its own parameters included."""
    state, seen = first_state(model, training), dict[int, int]()

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        kept = local_step(model, state, z.detach().requires_grad_(), labels.detach(), training, create_graph=True)
    constants = {v.untyped_storage().data_ptr() for v in (z, labels)}
    del kept  # until here, so that no storage has taken the place of another
    return sum(size for place, size in seen.items() if place not in constants)


def _spacing(model: Model, training: FedAvg, share: int, clients: int) -> int:
    """The distance of the steps whose states are kept: 1, or about sqrt(steps)."""
    steps = training.local_steps(share)
    copies = 2 if training.momentum else 1
    size = copies * sum(v.numel() * v.element_size() for v in first_state(model, training).params.values())
    return 1 if steps * clients * size <= STATES else math.isqrt(steps - 1) + 1


@dataclass
class _Run:
    """The local steps of one client."""

    model: Model
    z: Tensor
    labels: Tensor
    training: FedAvg
    spacing: int

    def __post_init__(self) -> None:
        self.batches, self.kept = minibatches(self.training, len(self.z)), dict[int, LocalState]()
        self.wanted = [v.requires_grad for v in (self.z, self.labels)]
        self.z, self.labels = self.z.detach(), self.labels.detach()

    def forward(self) -> dict[str, Tensor]:
        """The client's update; keeps some of the states."""
        state = start = first_state(self.model, self.training)
        for number in range(len(self.batches)):
            if number % self.spacing == 0:
                self.kept[number] = state
            state = self._step(number, state)
        return {k: v.detach() - state.params[k].detach() for k, v in start.params.items()}

    def backward(self, direction: Params) -> list[Tensor]:
        """The vector-Jacobian product."""
        totals = [torch.zeros_like(v) for v, w in zip((self.z, self.labels), self.wanted, strict=True) if w]
        start = self.kept[0].params
        still = [torch.zeros_like(v) for v in start.values()]
        after = _Cotangent([-direction[k] if k in direction else o for k, o in zip(start, still, strict=True)], still)
        for first in sorted(self.kept, reverse=True):
            states = self._states(first)
            while states:
                number = first + len(states) - 1
                after = self._earlier(number, states.pop(), after, totals)
        return totals

    def _states(self, first: int) -> list[LocalState]:
        """The states of the steps from one whose state was kept to before the next one."""
        states = [self.kept[first]]
        for number in range(first, min(first + self.spacing, len(self.batches)) - 1):
            states.append(self._step(number, states[-1]))
        return states

    def _step(self, number: int, state: LocalState) -> LocalState:
        rows = self.batches[number]
        return local_step(self.model, state, self.z[rows], self.labels[rows], self.training)

    def _earlier(self, number: int, state: LocalState, after: "_Cotangent", totals: list[Tensor]) -> "_Cotangent":
        """The cotangent before a step, from that after it; adds the inputs' share to `totals`."""
        training, rows = self.training, self.batches[number]
        along = [b - training.lr * a for a, b in zip(after.params, after.velocity, strict=True)]
        z, labels = (v[rows].requires_grad_(w) for v, w in zip((self.z, self.labels), self.wanted, strict=True))
        inputs, params = [v for v in (z, labels) if v.requires_grad], list(state.params.values())
        gradients, _ = loss_gradients(self.model, state.params, state.buffers, z, labels, True)
        pulled = product(list(gradients.values()), along, [*inputs, *(params if number else [])])
        for total, share in zip(totals, pulled, strict=False):
            total[rows] += share
        if not number:  # the server's own parameters are constants
            return after
        curved = pulled[len(inputs) :]
        before = [a + training.weight_decay * w + h for a, w, h in zip(after.params, along, curved, strict=True)]
        return _Cotangent(before, [training.momentum * w for w in along])


class _Cotangent(NamedTuple):
    """The cotangent of a state between two steps."""

    params: list[Tensor]
    velocity: list[Tensor]
