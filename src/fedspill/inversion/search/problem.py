"""What a search minimises, and what it found."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.search.step_rules import Variables


@dataclass(frozen=True)
class Problem:
    """One hypothesis of what the clients held, as something to minimise.

    Attributes:
        draw: a random start; called once per restart, in order.
        value: the objective of the variables.
        project: moves the variables back into their bounds, in place; of a stack too.
        values: the objectives of independent variables that are stacked, (r, ...) each, where this is possible.
        estimate: PSNR in dB of what was found, as far as the best iterates of independent runs tell, stacked (r, ...).
    """

    draw: Callable[[torch.Generator], Variables]
    value: Callable[[Variables], Float[Tensor, ""]]
    project: Callable[[Variables], None]
    values: Callable[[Variables], Float[Tensor, " r"]] | None = None
    estimate: Callable[[Variables], float] | None = None


@dataclass(frozen=True)
class Found:
    """The best iterate of all runs.

    Attributes:
        problem: index of the hypothesis that it belongs to.
        history: the objective at every iteration of the run that it comes from.
        best_by_problem: the lowest objective of every hypothesis, infinite where none was finite.
        diverged: runs that were given up.
        complete: False if the budget ended before the last iteration.
        estimate: PSNR in dB of the iterate as the search judges it, if a quality was asked for.
        enough: the search stopped since the estimate had reached that quality.
    """

    problem: int
    variables: Variables
    value: float
    history: tuple[float, ...]
    best_by_problem: tuple[float, ...]
    diverged: int
    complete: bool
    estimate: float | None = None
    enough: bool = False
