"""A search's length planned anew while it runs: the first evaluations tell little where others use the machine."""

import time
from collections.abc import Callable

EVERY, EARLY = 16, (2, 4, 8)
"""Steps between two looks, and steps after which there is one besides: a very short run may be over before."""


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
        elif step < steps and self._looks(step - self._first):
            most = max(steps, self._most)
            return min(most, step + self._planned(most - step, (now - self._began) / (step - self._first)))
        return steps

    @staticmethod
    def _looks(done: int) -> bool:
        return done % EVERY == 0 or done in EARLY
