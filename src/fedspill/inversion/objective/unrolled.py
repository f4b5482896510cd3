"""The vector-Jacobian product of many local steps, in the memory of one step and of the parameters between steps.

Reverse-mode differentiation through gradient descent (Maclaurin, Duvenaud, Adams 2015, arXiv 1502.03492), with the
states between steps kept instead of run backwards. A step takes parameters, the optimiser's memory and the examples to
the next parameters and memory; its vector-Jacobian product is one double differentiation of this step alone, whatever
the optimiser.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.local_training.optimizers import SGD, Adagrad, Adam, AdamW, Memory, RMSprop
from fedspill.core.local_training.protocol import FedAvg
from fedspill.core.local_training.steps import LocalState, first_state, local_step, turns
from fedspill.core.local_training.update import equal_shares, mean_update
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.objective.autograd import product

Pullback = Callable[[Params], list[Tensor]]
"""A cotangent of an update, by name and 0 where lacking, to the gradients of those of (z, labels) that require one."""

Cotangents = dict[tuple[str, str], Tensor]
"""Of the tensors of a state between two steps; see `_leaves`."""

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
    shares = enumerate(equal_shares(len(z), clients))
    each = [(p, training if clients == 1 else training.of_client(k)) for k, p in shares]
    runs = [_Run(model, z[p], labels[p], own, spacing) for p, own in each]
    ends = [run.forward() for run in runs]
    update = mean_update([Update(UpdateKind.DELTA, end) for end in ends]).values if clients > 1 else ends[0]

    def pullback(direction: Params) -> list[Tensor]:
        each = [run.backward({k: d / clients for k, d in direction.items()}) for run in runs]
        return [torch.cat(shares) for shares in zip(*each, strict=True)]

    return update, pullback


def pays(model: Model, z: Tensor, labels: Tensor, training: FedAvg, clients: int) -> bool:
    """Whether the graphs of all local steps are large, judged by that of one, and steps may be computed twice."""
    share = equal_shares(len(z), clients)[0]
    steps = training.local_steps(len(z[share])) * clients
    if steps == 1 or (model.training and training.draws is None and not repeatable(model, z[share].detach())):
        return False
    return steps * graph_bytes(model, z[share], labels[share], training) > GRAPHS


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
    state, seen, turn = first_state(model, training), dict[int, int](), turns(training, len(z))[0]

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        kept = local_step(model, state, z.detach().requires_grad_(), labels.detach(), training, turn, create_graph=True)
    constants = {v.untyped_storage().data_ptr() for v in (z, labels)}
    del kept  # until here, so that no storage has taken the place of another
    return sum(size for place, size in seen.items() if place not in constants)


MEMORIES: dict[type, int] = {SGD: 1, Adam: 2, AdamW: 2, RMSprop: 3, Adagrad: 1}
"""Tensors that an optimiser keeps beside a parameter, at most."""


def _spacing(model: Model, training: FedAvg, share: int, clients: int) -> int:
    """The distance of the steps whose states are kept: 1, or about sqrt(steps)."""
    steps = training.local_steps(share)
    copies = 1 + MEMORIES.get(type(training.rule), 2)
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
        self.turns, self.kept = turns(self.training, len(self.z)), dict[int, LocalState]()
        self.wanted = [v.requires_grad for v in (self.z, self.labels)]
        self.z, self.labels = self.z.detach(), self.labels.detach()

    def forward(self) -> dict[str, Tensor]:
        """The client's update; keeps some of the states."""
        state = start = first_state(self.model, self.training)
        for number in range(len(self.turns)):
            if number % self.spacing == 0:
                self.kept[number] = state
            state = self._step(number, state)
        return {k: start.params[k].detach() - state.params[k].detach() for k in start.params if k in state.memory}

    def backward(self, direction: Params) -> list[Tensor]:
        """The vector-Jacobian product."""
        totals = [torch.zeros_like(v) for v, w in zip((self.z, self.labels), self.wanted, strict=True) if w]
        after = {(k, ""): -v for k, v in direction.items()}
        for first in sorted(self.kept, reverse=True):
            states = self._states(first)
            while states:
                number = first + len(states) - 1
                after = self._earlier(number, states.pop(), after, totals)
        return totals

    def _states(self, first: int) -> list[LocalState]:
        """The states of the steps from one whose state was kept to before the next one."""
        states = [self.kept[first]]
        for number in range(first, min(first + self.spacing, len(self.turns)) - 1):
            states.append(self._step(number, states[-1]))
        return states

    def _step(self, number: int, state: LocalState) -> LocalState:
        return local_step(self.model, state, self.z, self.labels, self.training, self.turns[number])

    def _earlier(self, number: int, state: LocalState, after: Cotangents, totals: list[Tensor]) -> Cotangents:
        """The cotangents before a step, from those after it; adds the inputs' share to `totals`."""
        z, labels = (v.detach().requires_grad_(w) for v, w in zip((self.z, self.labels), self.wanted, strict=True))
        leaves = _leaves(state)
        begun = _with_leaves(state, leaves)
        ended = _leaves(local_step(self.model, begun, z, labels, self.training, self.turns[number], create_graph=True))
        inputs = [v for v in (z, labels) if v.requires_grad]
        ends = [(ended[k], v) for k, v in after.items() if k in ended]
        # The server's own parameters are constants.
        sources = [*inputs, *(leaves.values() if number else [])]
        pulled = product([e for e, _ in ends], [v for _, v in ends], sources)
        for total, share in zip(totals, pulled, strict=False):
            total += share
        return dict(zip(leaves, pulled[len(inputs) :], strict=False))


def _leaves(state: LocalState) -> dict[tuple[str, str], Tensor]:
    """Every tensor of a state, by the parameter's name and the name in its memory, "" for the parameter."""
    kept = {(k, name): v for k, memory in state.memory.items() for name, v in memory.tensors.items()}
    return {(k, ""): v for k, v in state.params.items()} | kept


def _with_leaves(state: LocalState, leaves: dict[tuple[str, str], Tensor]) -> LocalState:
    """The state whose tensors are these, made to require gradients."""
    for leaf in leaves.values():
        leaf.requires_grad_()
    memory = {k: Memory(m.steps, {name: leaves[k, name] for name in m.tensors}) for k, m in state.memory.items()}
    return LocalState({k: leaves[k, ""] for k in state.params}, memory, state.buffers)
