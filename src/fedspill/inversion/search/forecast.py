"""What a search will need, told before it starts: its objective is evaluated once or twice and timed."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fedspill.core.watching.watch import Forecast
from fedspill.inversion.search.problem import Problem

PATIENCE = 2.0
"""Seconds after which a second, warm evaluation is not worth its time."""


def forecast(problem: "Problem", start: list[Tensor], iterations: int, evaluations: int = 1) -> Forecast:
    """The forecast of a search that takes one run after the other.

    Args:
        start: variables of one run.
        iterations: those still to come, of all runs.
        evaluations: how often an iteration evaluates the objective with its gradient.
    """
    variables = [v.detach().clone().requires_grad_() for v in start]
    memory = None if problem.memory is None else problem.memory(variables, 1)
    once = timed(lambda: torch.autograd.grad(problem.value(variables), variables), variables[0].device)
    return Forecast(iterations, evaluations * once, memory)


def forecast_side_by_side(problem: "Problem", start: list[Tensor], iterations: int) -> Forecast:
    """The forecast of a search that takes all runs at once.

    Args:
        start: variables of all runs, stacked.
        iterations: those still to come, of all runs; each run's own count, as in the progress that is told.
    """
    assert problem.values is not None, "a batched search refuses a problem without"
    values, runs = problem.values, len(start[0])
    variables = [v.detach().clone().requires_grad_() for v in start]
    memory = None if problem.memory is None else problem.memory([v[0] for v in variables], runs)
    once = timed(lambda: torch.autograd.grad(values(variables).sum(), variables), variables[0].device)
    return Forecast(iterations, once / runs, memory)


def timed(evaluate: Callable[[], object], device: torch.device) -> float:
    """Seconds of an evaluation: the second, unless the first took so long that what it made once does not matter."""
    seconds = 0.0
    for _ in range(2):
        began = time.perf_counter()
        evaluate()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - began
        if seconds > PATIENCE:
            break
    return seconds
