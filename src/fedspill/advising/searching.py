"""The weakest strength of a ladder that stops the leaks.

A ladder is walked from its weakest strength up, every strength is measured, and the first that stops is taken. So the
answer is the weakest of those listed whether or not more strength always leaks less: nothing is inferred from another
strength's measurement. What lies above the answer is not measured.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from fedspill.report.advice import Tried

R = TypeVar("R")


def walk(rungs: Sequence[R], measure: Callable[[R], Tried]) -> list[tuple[R, Tried]]:
    """Every strength that was measured, the weakest first; the last one stops, if any does.

    Args:
        rungs: in rising strength.
        measure: what came of one; "unmeasured" ends the walk.
    """
    walked = list[tuple[R, Tried]]()
    for rung in rungs:
        walked.append((rung, measure(rung)))
        if walked[-1][1].found in ("stops", "unmeasured"):
            break
    return walked
