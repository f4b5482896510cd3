"""What one evaluation of a matching objective takes: measured on a few examples, extended to all, and what fits."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.memory import free_bytes, peak_bytes, words
from fedspill.core.model import Model
from fedspill.core.watching.counting import Counting
from fedspill.inversion.objective.autograd import ValueAndGradients
from fedspill.inversion.objective.unrolled import GRAPHS, STATES

FEW = 4
"""Examples up to which a step is measured as it is."""

Prepare = Callable[[LocalTraining], ValueAndGradients]
"""The objective under another local training."""


@dataclass(frozen=True)
class Demand:
    """Bytes as a linear function of local steps and of examples in a step.

    Attributes:
        first: of one step of `size` examples.
        further: of every further step, whose graph is kept too.
        example: of every further example in a step.
    """

    size: int
    first: float
    further: float
    example: float

    def of(self, examples: int, steps: int = 1) -> int:
        """The bytes that so many steps with so many examples each take."""
        more = (examples - self.size) * self.example
        return int(self.first + more + (steps - 1) * (self.further + more))

    def most(self, limit: float) -> int:
        """The most examples in one step that fit; below 1 if none does."""
        return int(self.size + (limit - self.first) // max(self.example, 1))


def measured(prepare: Prepare, z: Tensor, labels: Tensor, training: LocalTraining, *, steps: int, size: int) -> Demand:
    """The demand of value and gradients, by evaluations with few examples and at most three steps.

    Args:
        z: all examples (n, ...).
        training: what is matched.
        steps: local steps of all clients together.
        size: examples in one of them.
    """

    def peak(count: int, steps: int) -> int:
        shorter = training
        if isinstance(training, FedAvg):
            shorter = replace(training, epochs=steps, minibatch_size=None, accumulate=1, drop_last=False)
        return _peak(prepare(shorter), z[:count], labels[:count])

    few = min(FEW, len(z))
    least = size if size <= FEW else max(1, few // 2)
    first = further = float(peak(least, 1))
    example = max(0.0, (peak(few, 1) - first) / (few - least)) if least < few else 0.0
    if steps > 1 and isinstance(training, FedAvg):
        # The first step differs from those in between, so that three tell of many.
        some = min(steps, 3)
        further = float(peak(least, some) - peak(least, some - 1))
        first = peak(least, some) - (some - 1) * further
    return Demand(least, first, further, example)


def of_candidates(function: ValueAndGradients, z: Tensor, labels: Tensor) -> Demand:
    """The demand of candidates that are asked for at once, each of them in the place of an example.

    Args:
        function: takes a stack of candidates (r, n, ...) and their labels (n, ...).
        z: one candidate (n, ...).
        labels: of its examples.
    """
    few, scale = z[:FEW], len(z) / min(len(z), FEW)
    one, two = (scale * _peak(function, few.expand(r, *few.shape), labels[:FEW]) for r in (1, 2))
    return Demand(1, one, one, max(0.0, two - one))


def _peak(function: ValueAndGradients, z: Tensor, labels: Tensor) -> int:
    leaves = [v.detach().clone().requires_grad_(v.is_floating_point()) for v in (z, labels)]
    function(*leaves)  # what is made once is not the iterations' own
    return peak_bytes(lambda: function(*leaves))


BOUND = 8
"""Times what is counted below: eleven networks of the zoo, in one gradient and in local steps, took 0.03 to 3.3."""


def bound_bytes(model: Model, z: Float[Tensor, "n ..."], size: int, steps: int, parameters: int) -> int:
    """What an evaluation takes at most, by one forward pass of one example, where a measurement takes many of both.

    Args:
        z: examples, of which the first is used.
        size: examples of one local step.
        steps: all local steps.
        parameters: numbers in the update.
    """
    calm = model.in_eval_mode()
    with Counting() as counting, torch.no_grad():
        calm.logits(calm.params, z[:1].detach())
    return BOUND * steps * (size * counting.made + parameters * z.element_size())


def local_steps(training: LocalTraining, n: int, clients: int) -> tuple[int, int]:
    """Steps of all clients together that share n examples, and the examples of one step at most."""
    share = n // clients
    if not isinstance(training, FedAvg):
        return clients, share
    return clients * training.local_steps(share) * training.accumulate, min(training.minibatch_size or share, share)


Evaluation = Literal["whole", "stack", "parts"]
"""All examples of a candidate at once; those of several candidates at once; some of a candidate's at a time."""

USABLE = 0.7
"""Share of the free memory that an evaluation may take by what is counted: scratch space inside operators is not."""
COPIES = 8
"""Of the update that a process was seen to hold beside: copies of the network, what the allocator keeps."""
NEGLIGIBLE = 1 << 18
"""Numbers in parameters and inputs, over all steps, below which no machine runs out of memory."""
IN_STEPS = (
    "; a local step cannot be taken in parts. Take fewer examples or local steps, a smaller network or smaller inputs"
)
IN_TRAINING = (
    "; batch statistics need the whole batch, and so does a loss that is no mean. Take fewer examples, or mode='eval',"
    " which goes example by example"
)
BY_EXAMPLES = "; even one example at a time is too much. Take a smaller network or smaller inputs"
OR_ELSE = ", or a machine or card with more memory"


def usable_bytes(device: torch.device, update: int) -> float:
    """What an evaluation may take by what is counted.

    Args:
        update: bytes of an observed update.
    """
    return USABLE * free_bytes(device) - COPIES * update


@dataclass
class MemoryPlan:
    """Decides by demands that are measured once.

    Attributes:
        training: what is matched.
        clients: that share the examples.
        batch_statistics: the network is in train mode, or else needs the whole batch at once.
        parameters: numbers in the update.
        bound: bytes that an evaluation takes at most, of such examples, in steps of such a size, and so many steps.
        prepare: the objective of one client in one of the ways, under another local training; of a "stack" that of
            candidates (r, n, ...).
    """

    training: LocalTraining
    clients: int
    batch_statistics: bool
    parameters: int
    bound: Callable[[Tensor, int, int], int]
    prepare: Callable[[Evaluation, LocalTraining], ValueAndGradients]
    _demands: dict[tuple[int, Evaluation], Demand] = field(default_factory=dict[tuple[int, Evaluation], Demand])
    _parts: dict[int, int | None] = field(default_factory=dict[int, int | None])
    _side_by_side: dict[tuple[int, int], bool] = field(default_factory=dict[tuple[int, int], bool])

    def part(self, z: Float[Tensor, "n ..."], labels: Tensor) -> int | None:
        """How many examples to take at a time; None takes all.

        Raises:
            BadInput: there is too little memory, even for one at a time where that is possible.
        """
        if len(z) not in self._parts:
            self._parts[len(z)] = self._part(z, labels)
        return self._parts[len(z)]

    def side_by_side(self, z: Float[Tensor, "r n ..."], labels: Tensor) -> bool:
        """Whether r candidates fit at once."""
        key = (len(z), z.shape[1])
        if key not in self._side_by_side:
            self._side_by_side[key] = (
                self._is_small(z.flatten(0, 1))
                or len(z) * self._bound(z[0]) <= self._usable(z)
                or self._demand(z[0], labels, "stack").of(len(z)) <= self._usable(z)
            )
        return self._side_by_side[key]

    def need(self, z: Float[Tensor, "n ..."], labels: Tensor, together: int = 1) -> int:
        """Bytes that one evaluation takes; of more than one candidate only where they do fit side by side."""
        if together > 1:
            return self._demand(z, labels, "stack").of(together)
        part_size = self.part(z, labels)
        if part_size is not None:
            return self._demand(z, labels, "parts").of(part_size)
        return self._whole(z, labels)

    def _whole(self, z: Tensor, labels: Tensor) -> int:
        """The bytes of all examples at once; of many local steps the graphs are not kept (`unrolled`)."""
        steps, size = self._steps(len(z))
        demand = self._demand(z, labels, "whole")
        need = demand.of(size, steps)
        if steps == 1 or need <= GRAPHS:
            return need
        states = 2 * steps * self.parameters * z.element_size()
        return min(need, demand.of(size) + min(states, STATES))

    def _part(self, z: Tensor, labels: Tensor) -> int | None:
        steps, _ = self._steps(len(z))
        if self._is_small(z) or self._bound(z) <= self._usable(z):
            return None
        need, free = self._whole(z, labels), free_bytes(z.device)
        if need <= self._usable(z):
            return None
        if steps > 1 or self.batch_statistics:
            raise self._too_much(len(z), need, free, IN_STEPS if steps > 1 else IN_TRAINING)
        parts = self._demand(z, labels, "parts")
        if parts.most(self._usable(z)) < 1:
            raise self._too_much(len(z), parts.of(1), free, BY_EXAMPLES)
        return min(parts.most(self._usable(z)), len(z))

    def _bound(self, z: Tensor) -> int:
        steps, size = self._steps(len(z))
        return self.bound(z, size, steps)

    def _usable(self, z: Tensor) -> float:
        return usable_bytes(z.device, self.parameters * z.element_size())

    def _too_much(self, n: int, need: int, free: int, why: str) -> BadInput:
        return BadInput(
            f"matching an update of {n} examples takes about {words(need)} of memory at a time, {words(free)} are"
            f" free{why}{OR_ELSE}"
        )

    def _demand(self, z: Tensor, labels: Tensor, way: Evaluation) -> Demand:
        if (len(z), way) not in self._demands:
            self._demands[len(z), way] = self._measured(z, labels, way)
        return self._demands[len(z), way]

    def _measured(self, z: Tensor, labels: Tensor, way: Evaluation) -> Demand:
        if way == "stack":
            return of_candidates(self.prepare(way, self.training), z, labels)
        steps, size = self._steps(len(z))
        # The parts of a batch may be of one example, so few of them must tell of fewer.
        size = max(size, FEW + 1) if way == "parts" else size
        return measured(lambda t: self.prepare(way, t), z, labels, self.training, steps=steps, size=size)

    def _steps(self, n: int) -> tuple[int, int]:
        """All clients' local steps, and the examples of one of them."""
        return local_steps(self.training, n, 1 if self._is_one_gradient else self.clients)

    @property
    def _is_one_gradient(self) -> bool:
        return isinstance(self.training, FedSGD) and self.training.is_plain and not self.batch_statistics

    def _is_small(self, z: Tensor) -> bool:
        return (self.parameters + z.numel()) * self._steps(len(z))[0] < NEGLIGIBLE
