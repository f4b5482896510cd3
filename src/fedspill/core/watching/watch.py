"""Whoever runs an attack: hears of its progress and of what it will need, keeps its state, and may end it early."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

State = Mapping[str, Any]
"""Tensors, numbers, strings, and lists and dictionaries of them: what `torch.load(weights_only=True)` reads back."""


@dataclass(frozen=True)
class Forecast:
    """What a search expects to need before it starts, from evaluations of its objective that it timed.

    Attributes:
        iterations: of all runs together, at most.
        seconds: of one of them.
        memory: bytes at most at a time, beyond what is held already; None if it is not known.
        jobs: independent jobs that are searched, which share the iterations equally.
    """

    iterations: int
    seconds: float
    memory: int | None = None
    jobs: int = 1

    @property
    def total(self) -> float:
        """Seconds of all iterations."""
        return self.iterations * self.seconds


@runtime_checkable
class Watch(Protocol):
    """Whoever runs an attack: hears of its progress, keeps its state, and may end it early."""

    def progress(self, done: int, total: int, objective: float) -> None:
        """`done` of at most `total` iterations; `objective` is the best value so far."""
        ...

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """The attack could go on from here; `state` is called only if it is written now, as the `last` one is."""
        ...

    def load(self) -> State | None:
        """The state that an earlier, broken run of the same attack left, if any."""
        ...

    def out_of_time(self) -> bool:
        """The budget is spent: the attack should return its best so far."""
        ...

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        """A search is about to start; `forecast` measures, so it is called only if somebody wants to know."""
        ...

    def quality(self) -> float | None:
        """The PSNR in dB at which a search may stop, by its own estimate; None: it goes on to its end."""
        ...

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        """Steps and restarts that the time allows, so that a schedule of step sizes comes to its end.

        Asked when a search has shown what it needs, and again while it runs, of what is left of a run.

        Args:
            steps: of one run.
            restarts: runs, one after the other.
            seconds: of one step.

        Returns:
            As many as were asked for, or fewer. Where these would be of no use, the time is up from then on.
        """
        ...


class Unwatched:
    """Nobody listens and there is no limit."""

    def progress(self, done: int, total: int, objective: float) -> None:
        """Nobody listens."""

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Nothing is kept."""

    def load(self) -> State | None:
        """Nothing was kept."""
        return None

    def out_of_time(self) -> bool:
        """There is no limit."""
        return False

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        """Nobody wants to know."""

    def quality(self) -> float | None:
        """No quality is asked for."""
        return None

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        """There is no limit."""
        return steps, restarts


UNWATCHED = Unwatched()
