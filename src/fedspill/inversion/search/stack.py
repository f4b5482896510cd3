"""The runs of one search as one: their variables are stacked, and nothing leaves the device while they run.

The result is that of one run after the other, up to rounding. On a CUDA device a whole iteration can be captured as
a graph, which takes the host out of the loop.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.watching.clock import Pace

Variables = list[Tensor]
Step = Callable[[], None]


@dataclass
class Stack:
    """r runs of one hypothesis. A run that is lost (given up, or not finite) is carried along but not kept.

    Attributes:
        variables: (r, ...) each.
        values: objectives of all runs; `values` of a Problem.
        sign: turns the gradients into what the optimiser takes, in their place.
        history: the objectives of every iteration so far.
        pace: ends long evaluations midway.
    """

    variables: Variables
    values: Callable[[Variables], Float[Tensor, " r"]]
    optimiser: torch.optim.Optimizer
    sign: Callable[[Variables], None]
    project: Callable[[Variables], None]
    history: Float[Tensor, "steps r"]
    pace: Pace = field(default_factory=lambda: Pace(lambda: False))
    best: Variables = field(init=False)
    best_values: Float[Tensor, " r"] = field(init=False)
    lost: Bool[Tensor, " r"] = field(init=False)
    current: Float[Tensor, " r"] = field(init=False)

    def __post_init__(self) -> None:
        self.best = [v.detach().clone() for v in self.variables]
        self.best_values = torch.full_like(self.history[0], math.inf)
        self.lost = torch.zeros_like(self.history[0], dtype=torch.bool)
        self.current = torch.zeros_like(self.history[0])

    def evaluate(self) -> None:
        """Objectives, gradients, and the best so far; nothing new is allocated but what the objectives need.

        Raises:
            OutOfTime: nothing was changed.
        """
        with self.pace.evaluation():
            values = self.values(self.variables)
            gradients = torch.autograd.grad(values.sum(), self.variables)
        for v, gradient in zip(self.variables, gradients, strict=True):
            v.grad = gradient
        self.current.copy_(values.detach())
        self.lost.logical_or_(~self.current.isfinite())
        better = (self.current < self.best_values) & ~self.lost
        self.best_values.copy_(torch.where(better, self.current, self.best_values))
        for best, v in zip(self.best, self.variables, strict=True):
            best.copy_(torch.where(better.view(-1, *(1 for _ in v.shape[1:])), v.detach(), best))

    def iterate(self) -> None:
        """Evaluates and steps."""
        self.evaluate()
        self.sign(self.variables)
        self.optimiser.step()
        with torch.no_grad():
            self.project(self.variables)

    def give_up_above(self, level: float) -> None:
        """Runs whose best is above have diverged."""
        self.lost.logical_or_(self.best_values > level)

    def state(self, step: int) -> dict[str, Any]:
        """What `load` takes; `step` is the next iteration."""
        kept = ("best", "best_values", "lost", "history")
        variables = [v.detach() for v in self.variables]
        return {"step": step, "variables": variables, "optimiser": self.optimiser.state_dict()} | {
            k: getattr(self, k) for k in kept
        }

    def load(self, state: dict[str, Any]) -> int:
        """Goes on from a state; the next iteration."""
        self.optimiser.load_state_dict(state["optimiser"])
        pairs = [(self.best_values, state["best_values"]), (self.lost, state["lost"]), (self.history, state["history"])]
        pairs += [*zip(self.best, state["best"], strict=True)]
        pairs += [(v.detach(), s) for v, s in zip(self.variables, state["variables"], strict=True)]
        for current, saved in pairs:
            current.copy_(saved)
        return int(state["step"])


def captured(stack: Stack) -> Step:
    """`stack.iterate` as a CUDA graph; makes iterations of its own, so that it must be called in place of some.

    The optimiser must be `capturable`. The first iteration runs as usual, since it makes the optimiser's state; the
    second is captured, and that one and all later ones are replayed.
    """
    graph: torch.cuda.CUDAGraph | None = None
    calls = 0

    def step() -> None:
        nonlocal graph, calls
        calls += 1
        if calls <= 1:
            _on_a_side_stream(stack.iterate)
            return
        if graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                stack.iterate()
        graph.replay()

    return step


def _on_a_side_stream(work: Step) -> None:
    """Runs an iteration where the capture wants those before it: on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
