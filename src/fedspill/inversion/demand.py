"""How much memory one evaluation of a matching objective takes: measured on a few examples, then extended to all."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from fedspill.core.local_update import FedAvg, LocalTraining
from fedspill.core.memory import peak_bytes
from fedspill.inversion.evaluation import ValueAndGradients

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
        """Of so many steps with so many examples each."""
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
        shorter = replace(training, epochs=steps, minibatch_size=None) if isinstance(training, FedAvg) else training
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


def local_steps(training: LocalTraining, n: int, clients: int) -> tuple[int, int]:
    """Steps of all clients together that share n examples, and the examples of one step at most."""
    share = n // clients
    if not isinstance(training, FedAvg):
        return clients, share
    return clients * training.local_steps(share), min(training.minibatch_size or share, share)
