"""A batch read from its head down, once for all attacks that ask for it with the same effort and knowledge."""

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import Watch
from fedspill.core.types import Params, Update
from fedspill.core.watching.clock import left
from fedspill.inversion.disaggregation.readout import Effort
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.matching.told_apart import ToldApart, clock_of, told_apart
from fedspill.inversion.recursion.batch import BatchReading, read_batch

T = TypeVar("T")


MUCH_MORE = 4.0
"""Times what a reading took that its time ended, from which on it is worth another one."""


@dataclass(frozen=True)
class _Found:
    """A result.

    Attributes:
        cut: seconds that it took, if these were all that there were; else 0.
    """

    value: Any
    cut: float


@dataclass
class _Kept:
    """What was found of one update, and by what."""

    asked: tuple[Any, ...]
    found: dict[str, _Found]


_KEPT: dict[int, _Kept] = {}
"""By the identity of the update, for as long as that lives."""


@dataclass(frozen=True)
class ReadFromHead:
    """What an update of several examples tells from its head down.

    What was found once is given again as long as the update lives: the search that goes on from there begins where the
    reading ended, and does not take the time for it twice. A reading that its time ended is given as far as it came.

    Attributes:
        effort: at the head's equations.
    """

    update: Update
    knowledge: ServerKnowledge
    effort: Effort

    def told(self, rng: torch.Generator, watch: Watch) -> ToldApart:
        """Each example's features and probabilities.

        Raises:
            NotApplicable: the equations are of another kind.
        """
        return self._once("told", lambda: told_apart(self.update, self.knowledge, self.effort, rng, watch), watch)

    def gradient(self) -> Params:
        """The batch's mean gradient of all parameters that were sent, in float64."""
        sent, count = list(self.update.values), self.knowledge.num_examples
        return mean_gradient(self.update, self.knowledge, sent, count).values

    def reading(self, told: ToldApart, rng: torch.Generator, watch: Watch) -> BatchReading:
        """How far the layers below are read.

        Raises:
            NotApplicable: no layer below the head was read.
        """
        examples, model = told.examples, self.knowledge.model

        def read() -> BatchReading:
            return read_batch(model, self.gradient(), examples.features, examples.errors, rng, watch)

        return self._once("reading", read, watch)

    def _once(self, what: str, compute: Callable[[], T], watch: Watch) -> T:
        asked, key = self._asked(), id(self.update)
        kept = _KEPT.get(key)
        if kept is None or not _same(kept.asked, asked):
            if kept is None:
                weakref.finalize(self.update, _KEPT.pop, key, None)
            kept = _KEPT[key] = _Kept(asked, {})
        before = kept.found.get(what)
        if before is None or 0 < MUCH_MORE * before.cut < left():
            began = time.monotonic()
            value = compute()
            kept.found[what] = _Found(value, time.monotonic() - began if clock_of(watch)() else 0.0)
            return value
        return before.value

    def _asked(self) -> tuple[Any, ...]:
        """All that the answer depends on, besides chance and time; the norm tells an update that was changed since."""
        known = self.knowledge
        return (
            self.effort,
            self.update.norm(),
            known.model,
            known.num_clients,
            known.num_examples,
            known.labels,
            known.local_training,
            known.client_sizes,
        )


def _same(one: tuple[Any, ...], two: tuple[Any, ...]) -> bool:
    return all(_equal(a, b) for a, b in zip(one, two, strict=True))


def _equal(one: Any, two: Any) -> bool:
    """By what tensors hold; models are equal only if they are one."""
    if type(one) is not type(two) or isinstance(one, Model):
        return one is two
    if isinstance(one, Tensor):
        return one.shape == two.shape and one.dtype == two.dtype and bool(torch.equal(one, two))
    if is_dataclass(one):
        return all(_equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    return bool(one == two)
