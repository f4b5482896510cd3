"""What leaves a client behind its defences, in the accountants' terms: how far one unit moves it, under what noise.

Whatever happens before the last clipping is covered by it. What happens between clipping and noise may lengthen the
update again, and what happens after the noise may look at the private data again: nothing is proven of a chain with a
defence in either place that says nothing of itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fedspill.core.errors import BadInput
from fedspill.privacy.mechanisms import Distribution

Relation = Literal["add-or-remove", "replacement"]
Unit = Literal["example", "client", "update"]
USUAL_DELTA = 1e-5


@dataclass(frozen=True)
class Step:
    """What one defence does to what is sent: first it clips, then it adds noise. `Step()` does neither.

    A defence that gives a step says with it that, apart from what comes before its own clipping, it looks at nothing
    but the update that it is handed.

    Attributes:
        norm: longest Euclidean norm of what one unit adds to what is sent, in the update's unit; None clips nothing.
        norm1: longest sum of absolute values, likewise.
        noise: standard deviation of independent noise on every value, in the update's unit; 0 is none, None is noise
            whose size depends on the data.
        distribution: law of the noise.
        unit: whose part is bounded.
        relation: which pairs epsilon is about.
        delta: at which epsilon is told.
        buffers: BatchNorm statistics are passed on as they are.
    """

    norm: float | None = None
    norm1: float | None = None
    noise: float | None = 0.0
    distribution: Distribution = "gaussian"
    unit: Unit = "update"
    relation: Relation = "replacement"
    delta: float = USUAL_DELTA
    buffers: bool = True


@runtime_checkable
class Accounted(Protocol):
    """A defence that says what it does in the accountants' terms."""

    def step(self, num_examples: int) -> Step:
        """Its step on an update of so many examples of one client."""
        ...


@dataclass(frozen=True)
class Release:
    """One noisy release.

    Attributes:
        reach: how far one unit alone moves what is sent: Euclidean for Gaussian noise, the sum of absolute values for
            Laplace noise; in the update's unit.
        noise: standard deviation on every value.
        distribution: law of the noise.
        unit: whose part it is.
        relation: which pairs are to be hard to tell apart: with and without one unit (1 x reach apart), or with one and
            another (2 x reach).
        delta: at which epsilon is told.

    Raises:
        BadInput: reach or noise is not above 0 and finite, or delta is not in (0, 1).
    """

    reach: float
    noise: float
    distribution: Distribution = "gaussian"
    unit: Unit = "update"
    relation: Relation = "replacement"
    delta: float = USUAL_DELTA

    def __post_init__(self) -> None:
        for name, value in (("reach", self.reach), ("noise", self.noise)):
            if not 0 < value < math.inf:
                raise BadInput(f"{name}={value} must be above 0 and finite")
        if not 0 < self.delta < 1:
            raise BadInput(f"delta={self.delta} must lie between 0 and 1")

    @property
    def sensitivity(self) -> float:
        """How far the two releases of a pair lie apart at most: reach, or twice that for replacement."""
        return self.reach * (2 if self.relation == "replacement" else 1)

    @property
    def multiplier(self) -> float:
        """The noise over the sensitivity; of Laplace noise its scale, which is its deviation over the root of 2."""
        size = self.noise if self.distribution == "gaussian" else self.noise / math.sqrt(2)
        return size / self.sensitivity


@dataclass(frozen=True)
class Chain:
    """What a chain of defences comes to.

    Attributes:
        release: None if nothing is proven of it.
        reason: why nothing is proven; "" if something is.
        noise: standard deviation of Gaussian noise on every value that does not depend on the data, if there is any
            and it is the first; it bounds estimates even where no epsilon does.
        clip: the longest Euclidean norm of the whole update before that noise; None if that was not clipped.
    """

    release: Release | None
    reason: str = ""
    noise: float | None = None
    clip: float | None = None


def chained(steps: Sequence[tuple[str, Step | None]], size: int, *, buffers: bool = False) -> Chain:
    """What the defences of a client come to, in their order.

    Args:
        steps: name of each defence, and its step; None for one that says nothing.
        size: values of an update.
        buffers: the client sends BatchNorm statistics.
    """
    walk = _Walk(size)
    for name, step in steps:
        walk.take(name, step)
    return walk.end(buffers)


class _Walk:
    """The state behind the defences so far."""

    def __init__(self, size: int) -> None:
        self._size, self._norm, self._norm1 = size, math.inf, math.inf
        self._release: Release | None = None
        self._noise: float | None = None
        self._clip: float | None = None
        self._reason, self._sends, self._plain = "no defence adds noise", True, True

    def take(self, name: str, step: Step | None) -> None:
        if step is None:
            return self._unknown(name)
        self._sends = self._sends and step.buffers
        if self._release is None:
            self._clip_by(step)
            self._cover(name, step)

    def _unknown(self, name: str) -> None:
        if self._release is not None:
            self._reason = f"{name} comes after the noise and may look at the private data again"
        elif self._norm < math.inf or self._norm1 < math.inf:
            self._reason = f"{name} comes after the clipping and may lengthen the update again"
        self._release, self._norm, self._norm1 = None, math.inf, math.inf
        self._noise, self._plain = None, False

    def _clip_by(self, step: Step) -> None:
        if step.norm is None and step.norm1 is None and step.noise == 0:
            self._norm = self._norm1 = math.inf  # what it does may lengthen the update
            self._plain = False
        self._norm = min(self._norm, step.norm or math.inf)
        self._norm1 = min(self._norm1, step.norm1 or math.inf)

    def _cover(self, name: str, step: Step) -> None:
        if step.noise == 0:
            return
        if step.noise is None:
            self._reason, self._plain = f"the noise of {name} depends on the data", False
            return
        self._first_noise(step)
        reach = self._reach(step)
        if reach == math.inf:
            self._reason = f"nothing clips the update before the noise of {name}"
            return
        self._release = Release(reach, step.noise, step.distribution, step.unit, step.relation, step.delta)

    def _reach(self, step: Step) -> float:
        """Euclid's norm is at most the sum of absolute values, and that at most the root of their number times it."""
        if step.distribution == "gaussian":
            return min(self._norm, self._norm1)
        return min(self._norm1, math.sqrt(self._size) * self._norm)

    def _first_noise(self, step: Step) -> None:
        plain = self._plain and step.distribution == "gaussian" and step.unit == "update" and step.norm1 is None
        if self._noise is None and plain:
            self._noise = step.noise
            self._clip = self._norm if self._norm < math.inf else None
        self._plain = False

    def end(self, buffers: bool) -> Chain:
        release, reason = self._release, self._reason
        if release is not None and buffers and self._sends:
            release, reason = None, "BatchNorm statistics are sent without noise"
        return Chain(release, "" if release is not None else reason, self._noise, self._clip)
