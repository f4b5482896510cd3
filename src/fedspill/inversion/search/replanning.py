"""A search's length planned anew while it runs: the first evaluations tell little where others use the machine."""

import time
from collections.abc import Callable

EVERY = 16
"""Steps between two looks."""


class Replanning:
    """Of one run.

    Args:
        planned: of so many steps that are left and so many seconds that one takes, as many as the time allows.
    """

    def __init__(self, planned: Callable[[int, float], int]) -> None:
        self._planned, self._began, self._first = planned, 0.0, -1

    def after(self, step: int, steps: int) -> int:
        """How long the run is to be, after so many of its steps."""
        now = time.monotonic()
        if self._first < 0:
            self._began, self._first = now, step
        elif step < steps and (step - self._first) % EVERY == 0:
            return min(steps, step + self._planned(steps - step, (now - self._began) / (step - self._first)))
        return steps
