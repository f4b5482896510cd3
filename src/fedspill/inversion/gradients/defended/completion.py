"""The layers of an update whose gradients have a rank below their size, as they were before the clients' defence.

A linear layer that sees one row per example has dW = sum_i delta_i x_i^T and db = sum_i delta_i: the matrix [dW | db]
has the rank n of the batch, however large the layer is (Dimitrov et al. 2024, SPEAR, arXiv 2403.03945, Thm. 3.1). So
what was left out, cut, or sent with noise is told by the rest, as in matrix completion.
"""

import math
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.probing.inputs import probe_inputs
from fedspill.core.types import Update
from fedspill.inversion.gradients.defended.low_rank import Incomplete, error_of, of_rank
from fedspill.inversion.gradients.defended.sent import as_it_was, noise_on, ranges
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import Step, trace

ROOM = 2
"""Rows and columns of a layer for each example, at least: with fewer the rank says hardly anything."""
GOOD = 0.5
"""Error of entries that were held out, over their size, below which what was left out counts as told."""
LARGEST, LARGEST_IN_TURNS = 2**26, 2**20
"""Entries of a layer up to which one projection, and many of them, are computed."""
SHORTER, SHORTER_IN_TURNS = 2048, 256
"""Its shorter side up to which they are: each takes the eigenvectors of a matrix of that side, seconds in all."""


@dataclass(frozen=True)
class Completed:
    """A layer's gradient as it was, in the update's unit, float64.

    Attributes:
        weight: dL/dW.
        bias: dL/db; None for a layer without one.
        error: root mean square error of an entry, judged without the truth; infinite where no direction stands out of
            the noise, so that the gradient is as it was sent.
    """

    weight: Tensor
    bias: Tensor | None
    error: float


@dataclass
class Completion:
    """The layers of one update, each computed when first asked for."""

    update: Update
    knowledge: ServerKnowledge
    _steps: dict[str, Step] | None = None
    _found: dict[str, Completed | None] = field(default_factory=dict[str, "Completed | None"])

    def of(self, name: str) -> Completed | None:
        """The layer that a parameter belongs to; None where its rank tells nothing more than was sent."""
        known = self.knowledge.defence
        if known is None or not _alters(known, self.knowledge.num_clients) or name not in self.update.values:
            return None
        if self._steps is None:
            self._steps = _linear(self.knowledge)
        step = self._steps.get(name)
        if step is None:
            return None
        if step.name not in self._found:
            self._found[step.name] = _completed(step, self.update, self.knowledge, known)
        return self._found[step.name]

    def whole(self, names: Iterable[str] | None = None) -> Update:
        """The update with every layer that is completed, float64, or with those of some parameters."""
        values = dict(self.update.values)
        for name in values.keys() & set(values if names is None else names):
            value = values[name]
            found = self.of(name)
            told = None if found is None else found.weight if found.weight.shape == value.shape else found.bias
            values[name] = value if told is None else told
        return replace(self.update, values=values)

    @property
    def names(self) -> frozenset[str]:
        """Of what is completed."""
        told = ((name, self.of(name)) for name in self.update.values)
        return frozenset(name for name, found in told if found is not None and math.isfinite(found.error))


_LAST: list[tuple[weakref.ReferenceType[Update], weakref.ReferenceType[ServerKnowledge], Completion]] = []
"""Of the update that was asked of last: one attack asks several times."""


def completion(update: Update, knowledge: ServerKnowledge) -> Completion:
    """What rank tells of an update of one local step."""
    if not _LAST or _LAST[0][0]() is not update or _LAST[0][1]() is not knowledge:
        _LAST[:] = [(weakref.ref(update), weakref.ref(knowledge), Completion(update, knowledge))]
    return _LAST[0][2]


def _alters(known: KnownDefence, clients: int) -> bool:
    """Of a mean over several clients what one of them left out or cut does not show."""
    if known.signs or (clients > 1 and (known.survivors or known.cut)):
        return False
    return known.is_noisy or known.survivors or known.cut or known.bits is not None


def _linear(knowledge: ServerKnowledge) -> dict[str, Step]:
    """Linear layers that see one row per example, by their parameters' names."""
    try:
        steps = trace(knowledge.model).steps
    except NotApplicable:
        return {}
    calls = [s for s in steps if isinstance(s.module, nn.Linear) and len(s.input_shape) == 1 and s.parameter("weight")]
    names = [n for s in calls for n in (s.parameter("weight"), s.parameter("bias")) if n is not None]
    return {
        n: s
        for s in calls
        for n in (s.parameter("weight"), s.parameter("bias"))
        if n is not None and names.count(n) == 1 and _row_per_example(knowledge, s)
    }


def _row_per_example(knowledge: ServerKnowledge, step: Step) -> bool:
    model = knowledge.model
    try:
        return len(layer_inputs(model, step.name, probe_inputs(model.input, 2, model.like))) == 2
    except NotApplicable:
        return False


def _completed(step: Step, update: Update, knowledge: ServerKnowledge, known: KnownDefence) -> Completed | None:
    weight, bias, n = step.parameter("weight"), step.parameter("bias"), knowledge.num_examples
    if weight is None or weight not in update.values or n is None or n < 2 or {weight, bias} & known.left_out:
        return None
    bias = bias if bias in update.values else None
    incomplete, unit, wider = _joined(update, knowledge, known, weight, bias)
    side, size = min(incomplete.values.shape), incomplete.values.numel()
    longest, largest = (SHORTER, LARGEST) if incomplete.whole else (SHORTER_IN_TURNS, LARGEST_IN_TURNS)
    if side < ROOM * n or side > longest or size > largest:
        return None
    found = of_rank(incomplete, n)
    error, most = error_of(incomplete, n, found)
    if not incomplete.whole and not error < GOOD * most:
        return None
    if not bool(found.any()):
        found, error = incomplete.values, math.inf
    found = found * unit
    told = found if bias is None else found[:, :-1]
    return Completed(told, None if bias is None else found[:, -1] / wider, error * unit)


def _joined(
    update: Update, knowledge: ServerKnowledge, known: KnownDefence, weight: str, bias: str | None
) -> tuple[Incomplete, float, float]:
    """[dW | db] in units of its own, and the unit; by what the bias was multiplied, so that its noise is alike."""
    names = [weight] if bias is None else [weight, bias]
    noise = [noise_on(n, update, knowledge, known, 1.0) for n in names]
    wider = noise[0] / noise[-1] if noise[-1] > 0 and noise[0] > 0 else 1.0
    parts = [(update.values[n].double(), as_it_was(update, n, known), *ranges(update, n, known)) for n in names]
    values, sent, low, high = (torch.cat([p.view(len(p), -1) for p in each], 1) for each in zip(*parts, strict=True))
    if bias is not None:
        values[:, -1], low[:, -1], high[:, -1] = values[:, -1] * wider, low[:, -1] * wider, high[:, -1] * wider
    unit = float(values.square().mean().sqrt()) or 1.0
    return Incomplete(values / unit, sent, low / unit, high / unit, noise[0] / unit), unit, wider
