"""One after the other in this process: for a debugger, and where a trial takes less than the start of a process."""

from collections.abc import Callable

from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines.engine import Ended
from fedspill.sweeping.running import run_trial


class Here:
    """Starts a trial when it is asked how it ended.

    Args:
        run: a plan as JSON, and a device, to what came of it.
    """

    def __init__(self, device: str, run: Callable[[str, str], Outcome] = run_trial) -> None:
        self._device, self._run = device, run
        self._next: tuple[str, str] | None = None

    @property
    def running(self) -> int:
        """At most one."""
        return int(self._next is not None)

    def has_room(self) -> bool:
        """If none is due."""
        return self._next is None

    def start(self, digest: str, plan: str) -> None:
        """Keeps it until `ended`."""
        self._next = (digest, plan)

    def ended(self, seconds: float) -> list[Ended]:
        """Runs it, however long that takes."""
        if self._next is None:
            return []
        (digest, plan), self._next = self._next, None
        return [Ended(digest, self._run(plan, self._device))]

    def close(self) -> None:
        """Nothing is left."""
