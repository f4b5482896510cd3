"""`Search` with all runs of a hypothesis at once: for networks that stack, a fraction of the time on a GPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.roles import Forecast, State, Watch
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.replanning import Replanning
from fedspill.inversion.search.stack import Stack, captured
from fedspill.inversion.search.step_rules import SignedAdam, Variables

READ_EVERY = 16
"""Iterations between two looks of the host at a CUDA device, and between two estimates of the quality."""


@dataclass(frozen=True)
class BatchedSearch:
    """Finds what `Search` finds, up to rounding; needs the memory of all runs at once.

    Attributes:
        rule: how a step is made, for every run alike.
        steps: iterations of one run.
        restarts: runs per hypothesis.
        tolerance: an objective below this ends the whole search; 0 never does.
        give_up: (iteration, level): runs above the level after so many iterations have diverged.
        graph: on a CUDA device an iteration is captured as a CUDA graph; elsewhere this changes nothing.
    """

    rule: SignedAdam
    steps: int
    restarts: int = 1
    tolerance: float = 0.0
    give_up: tuple[int, float] | None = None
    graph: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")

    def run(self, problems: Sequence[Problem], rng: torch.Generator, watch: Watch) -> Found:
        """Searches all problems; resumes where the watch has a saved state.

        Raises:
            BadInput: a problem takes no stack.
            OutOfTime: the time was up before anything was evaluated.
        """
        state = watch.load()
        progress = _Progress([math.inf] * len(problems)) if state is None else _Progress(**state["progress"])
        done = progress.problem * self.steps + (int(state["stack"]["step"]) if state else 0)
        pace = self._pace(watch, progress, len(problems), done)
        for index, problem in enumerate(problems):
            starts = [problem.draw(rng) for _ in range(self.restarts)]
            if index < progress.problem:
                continue
            saved, state = state, None
            stack = self._stack(problem, [torch.stack(v) for v in zip(*starts, strict=True)], pace)
            first = stack.load(dict(saved["stack"])) if saved else 0
            try:
                step, ended = self._all_steps(stack, problem, first, progress, watch)
            except OutOfTime:
                if not progress.best:
                    raise
                return progress.found(complete=False)
            progress.take(stack, step)
            if ended or progress.enough or progress.value < self.tolerance:
                return progress.found(complete=not ended)
        return progress.found(complete=True)

    def run_many(self, problem: Problem, rngs: Sequence[torch.Generator], watch: Watch) -> list[Found]:
        """Searches of independent jobs in one stack: for each the best of its own `restarts` runs.

        Args:
            problem: `draw` is of one run of any job; `values` and `project` are of all runs, job after job. A tolerance
                ends nothing.
            rngs: generators, one a job, from which each draws its starts as a search of its own would.

        Raises:
            BadInput: the problem takes no stack.
        """
        starts = [problem.draw(rng) for rng in rngs for _ in range(self.restarts)]
        joint = replace(self, restarts=len(starts), tolerance=0.0)
        state = watch.load()
        progress = _Progress([math.inf]) if state is None else _Progress(**state["progress"])
        pace = joint._pace(watch, progress, 1, 0 if state is None else int(state["stack"]["step"]))
        stack = joint._stack(problem, [torch.stack(v) for v in zip(*starts, strict=True)], pace)
        first = 0 if state is None else stack.load(dict(state["stack"]))
        step, ended = joint._all_steps(stack, problem, first, progress, watch)
        jobs = torch.arange(joint.restarts).split(self.restarts)
        return [_found_of(stack, runs, step, complete=not ended) for runs in jobs]

    def _stack(self, problem: Problem, starts: Variables, pace: Pace) -> Stack:
        if problem.values is None:
            raise BadInput("a problem that takes no stack of variables was given to a batched search; use Search")
        variables = [v.detach().clone().requires_grad_() for v in starts]
        optimiser = self.rule.optimiser(variables, capturable=variables[0].is_cuda)
        history = variables[0].new_full((self.steps + 1, self.restarts), math.inf)
        return Stack(variables, problem.values, optimiser, self.rule.sign, problem.project, history, pace)

    def _pace(self, watch: Watch, progress: "_Progress", problems: int, done: int) -> Pace:
        """Tells what an iteration needs, of which a step makes one in every run, and plans for what the time allows.

        Args:
            done: steps of a broken run, over all problems.
        """
        remaining = (problems * self.steps - done) * self.restarts

        def tell(seconds: float, memory: int) -> None:
            watch.forecast(lambda: Forecast(remaining, seconds / self.restarts, memory))
            progress.steps = min(progress.steps, watch.planned(self.steps, 1, seconds * problems)[0])

        progress.steps = progress.steps or self.steps
        return Pace(watch.out_of_time, tell)

    def _all_steps(
        self, stack: Stack, problem: Problem, first: int, progress: "_Progress", watch: Watch
    ) -> tuple[int, bool]:
        """The last iteration that was evaluated, and whether the budget ended it.

        Raises:
            OutOfTime: none was.
        """
        on_host = not stack.variables[0].is_cuda
        hypotheses = len(progress.best_by_problem) - progress.problem
        most = self.steps if hypotheses == 1 else 0
        replanning = Replanning(lambda left, seconds: watch.planned(left, 1, seconds * hypotheses)[0], most)
        iterate = captured(stack) if self.graph and not on_host else stack.iterate
        done, total = progress.problem * self.restarts, len(progress.best_by_problem) * self.restarts * self.steps
        for step in range(first, self.steps + 1):
            self.rule.set_step_size(stack.optimiser, step / progress.steps)
            try:
                (iterate if step < progress.steps else stack.evaluate)()
            except OutOfTime:
                if not stack.best_values.isfinite().any():
                    raise
                return step - 1, True  # whoever goes on does so from the last state that was kept
            stack.history[step].copy_(stack.current)
            if self.give_up is not None and step == self.give_up[0]:
                stack.give_up_above(self.give_up[1])
            if on_host or step % READ_EVERY == 0:
                best = min(progress.value, float(stack.best_values.min()))
                watch.progress(done * self.steps + min(step + 1, self.steps) * self.restarts, total, best)
                if best < self.tolerance or bool(stack.lost.all()):
                    return step, False
            if step >= progress.steps or step % READ_EVERY == 0:
                progress.judge(stack, problem, watch.quality())
            if step >= progress.steps or progress.enough:
                return step, False
            progress.steps = replanning.after(step + 1, progress.steps)
            ended = watch.out_of_time()
            watch.save(lambda step=step: _state(progress, stack, step + 1), last=ended)
            if ended:
                return step, True
        return self.steps, False


def _found_of(stack: Stack, runs: Tensor, step: int, *, complete: bool) -> Found:
    """The outcome of those runs of a stack that belong to one job."""
    runs = runs.to(stack.best_values.device)
    run = int(runs[stack.best_values[runs].argmin()])
    value = float(stack.best_values[run])
    history = tuple(stack.history[: step + 1, run].tolist())
    best = [b[run].clone() for b in stack.best]
    return Found(0, best, value, history, (value,), int(stack.lost[runs].sum()), complete)


def _state(progress: "_Progress", stack: Stack, step: int) -> State:
    return {"progress": dict(progress.__dict__), "stack": stack.state(step)}


@dataclass
class _Progress:
    """The outcomes of the hypotheses before."""

    best_by_problem: list[float]
    problem: int = 0
    best: Variables = field(default_factory=list[Tensor])
    value: float = math.inf
    best_problem: int = 0
    history: list[float] = field(default_factory=list[float])
    diverged: int = 0
    estimate: float | None = None
    enough: bool = False
    steps: int = 0

    def judge(self, stack: Stack, problem: Problem, level: float | None) -> None:
        """Whether the runs that are left, two at least, tell of the quality that was asked for.

        A hypothesis is judged as long as nothing better was found under the ones before.
        """
        kept = ~stack.lost
        if (
            level is None
            or problem.estimate is None
            or int(kept.sum()) < 2
            or float(stack.best_values.min()) > self.value
        ):
            return
        self.estimate = problem.estimate([b[kept] for b in stack.best])
        self.enough = self.estimate >= level

    def take(self, stack: Stack, step: int) -> None:
        """The outcome of the next hypothesis, after its iteration `step`."""
        run = int(stack.best_values.argmin())
        value = float(stack.best_values[run])
        self.best_by_problem[self.problem] = value
        self.diverged += int(stack.lost.sum())
        if value < self.value or not self.best:
            self.best, self.value = [b[run].clone() for b in stack.best], value
            self.history, self.best_problem = stack.history[: step + 1, run].tolist(), self.problem
        self.problem += 1

    def found(self, *, complete: bool) -> Found:
        """The lowest of all."""
        best_by_problem = tuple(self.best_by_problem)
        history = tuple(self.history)
        return Found(
            self.best_problem,
            self.best,
            self.value,
            history,
            best_by_problem,
            self.diverged,
            complete,
            self.estimate,
            self.enough,
        )
