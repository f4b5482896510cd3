"""What runs trials: some at a time, and says as each one ends."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedspill.report.sweep import Outcome


@dataclass(frozen=True)
class Lost:
    """The process of a trial died.

    Attributes:
        reason: how, as far as it is known.
    """

    reason: str


@dataclass(frozen=True)
class Ended:
    """One trial that runs no more.

    Attributes:
        digest: by which it was started.
    """

    digest: str
    result: Outcome | Lost


@runtime_checkable
class Engine(Protocol):
    """Runs trials; all calls come from one thread."""

    @property
    def running(self) -> int:
        """Trials that were started and have not been reported as ended."""
        ...

    def has_room(self) -> bool:
        """Whether another one may be started now."""
        ...

    def start(self, digest: str, plan: str) -> None:
        """Begins a trial.

        Args:
            plan: as JSON.
        """
        ...

    def ended(self, seconds: float) -> list[Ended]:
        """Those that have ended since; waits for one, but not for longer than `seconds`."""
        ...

    def close(self) -> None:
        """Ends all that still runs."""
        ...
