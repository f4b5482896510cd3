"""A search's length planned anew while it runs: the first evaluations tell little where others use the machine."""

import time
from collections.abc import Callable

EVERY = 16
"""Steps between two looks."""


class Replanning:
    """Of one run.

    Args:
        planned: of so many steps that are left and so many seconds that one takes, as many as the time allows.
        most: steps that the run may grow to again, as the machine may be free by now; 0 lets it only shrink.
    """

    def __init__(self, planned: Callable[[int, float], int], most: int = 0) -> None:
        self._planned, self._most, self._began, self._first = planned, most, 0.0, -1

    def after(self, step: int, steps: int) -> int:
        """How long the run is to be, after so many of its steps."""
        now = time.monotonic()
        if self._first < 0:
            self._began, self._first = now, step
        elif step < steps and (step - self._first) % EVERY == 0:
            most = max(steps, self._most)
            return min(most, step + self._planned(most - step, (now - self._began) / (step - self._first)))
        return steps
