"""The optimisation loop of every search: step rules, restarts, the best by its objective, checkpoints.

Nothing here knows the truth: a run is judged by the value that it minimises, which is all that a server has.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.roles import Forecast, State, Watch
from fedspill.core.watching.clock import OutOfTime, Pace
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.replanning import Replanning
from fedspill.inversion.search.step_rules import SignedAdam, StepRule, Variables


@dataclass(frozen=True)
class Search:
    """Minimises every hypothesis from several starts and keeps the iterate with the lowest objective.

    Attributes:
        rule: how a step is made.
        steps: iterations of one run.
        restarts: runs per hypothesis.
        tolerance: an objective below this ends the whole search; 0 never does.
        give_up: (iteration, level): a run above the level after so many iterations has diverged
            (methods: 5-30 % of DLG's runs do), as has one whose objective is not finite.
    """

    rule: StepRule
    steps: int
    restarts: int = 1
    tolerance: float = 0.0
    give_up: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")

    def run(self, problems: Sequence[Problem], rng: torch.Generator, watch: Watch) -> Found:
        """Searches all problems; resumes where the watch has a saved state.

        Raises:
            OutOfTime: the time was up before anything was evaluated.
        """
        progress = _Progress.resume(watch.load(), len(problems))
        runs = [p for p in range(len(problems)) for _ in range(self.restarts)]
        remaining = (len(runs) - progress.run) * self.steps - progress.step

        def tell(seconds: float, memory: int) -> None:
            once = self.rule.evaluations * seconds
            watch.forecast(lambda: Forecast(remaining, once, memory))
            progress.plan(*watch.planned(self.steps, self.restarts, once * len(problems)))

        def again(left: int, seconds: float) -> int:
            """Of the steps that are left of a run as many as the time allows, hypotheses to come alike."""
            return watch.planned(left, 1, seconds * (len(problems) - index))[0]

        progress.plan(self.steps, self.restarts)
        pace = Pace(watch.out_of_time, tell)
        for number, index in enumerate(runs):
            start = problems[index].draw(rng)
            if number < progress.run or number % self.restarts >= progress.restarts:
                continue
            progress.turn_to(number)
            total = len(problems) * progress.restarts
            place = index * progress.restarts + number % self.restarts
            heard = partial(_heard, watch, progress, place, total)
            replanning = Replanning(again, self.steps if len(runs) == 1 else 0)
            if not self._one_run(problems[index], index, start, progress, watch, pace, heard, replanning):
                return progress.found(complete=False)
            if progress.best_value < self.tolerance:
                break
            progress.end_run()
        return progress.found(complete=True)

    def _one_run(
        self,
        problem: Problem,
        index: int,
        start: Variables,
        progress: "_Progress",
        watch: Watch,
        pace: Pace,
        heard: Callable[[int], None],
        replanning: Replanning,
    ) -> bool:
        """One restart; False if the budget ended it. Leaves its best in `progress`.

        Args:
            heard: tells how many steps are done.

        Raises:
            OutOfTime: nothing was evaluated yet.
        """
        variables = [v.detach().clone().requires_grad_() for v in (progress.variables or start)]
        optimiser = self.rule.optimiser(variables)
        if progress.optimiser is not None:
            optimiser.load_state_dict(progress.optimiser)
        step = progress.step
        while True:
            try:
                value = self._evaluate(problem, variables, pace)
                progress.note(index, value, variables)
                if self._is_over(step, value, progress):
                    return True
                self._step(problem, optimiser, variables, step / progress.steps, pace)
            except OutOfTime:
                if not progress.best:
                    raise
                return False  # whoever goes on does so from the last state that was kept
            step += 1
            progress.steps = replanning.after(step, progress.steps)
            heard(step)
            ended = watch.out_of_time()
            watch.save(lambda step=step: progress.state(step, variables, optimiser), last=ended)
            if ended:
                return False

    def _is_over(self, step: int, value: float, progress: "_Progress") -> bool:
        lost = not math.isfinite(value)
        if self.give_up is not None and step == self.give_up[0] and progress.run_best > self.give_up[1]:
            lost = True
        progress.diverged += lost
        return lost or value < self.tolerance or step >= progress.steps

    def _evaluate(self, problem: Problem, variables: Variables, pace: Pace) -> float:
        """The objective; leaves its gradient in the variables.

        Raises:
            OutOfTime: nothing was changed.
        """
        with pace.evaluation():
            value = problem.value(variables)
            gradients = torch.autograd.grad(value, variables)
        _set_gradients(variables, gradients)
        return float(value.detach())

    def _step(
        self, problem: Problem, optimiser: torch.optim.Optimizer, variables: Variables, done: float, pace: Pace
    ) -> None:
        if isinstance(self.rule, SignedAdam):
            self.rule.before_step(optimiser, variables, done)
            optimiser.step()
        else:

            def closure() -> float:
                return self._evaluate(problem, variables, pace)

            optimiser.step(closure)
        with torch.no_grad():
            problem.project(variables)


def _heard(watch: Watch, progress: "_Progress", run: int, runs: int, step: int) -> None:
    """The planned length of runs may change while one runs."""
    watch.progress(run * progress.steps + step, runs * progress.steps, progress.best_value)


def _set_gradients(variables: Variables, gradients: Iterable[Tensor]) -> None:
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = gradient.detach().contiguous()  # L-BFGS takes views of them


@dataclass
class _Progress:
    """What must be known to go on, and what was found so far."""

    best_by_problem: list[float]
    run: int = 0
    step: int = 0
    variables: Variables | None = None
    optimiser: dict[str, Any] | None = None
    best: Variables = field(default_factory=list[Tensor])
    best_value: float = math.inf
    best_problem: int = 0
    best_history: list[float] = field(default_factory=list[float])
    run_best: float = math.inf
    history: list[float] = field(default_factory=list[float])
    diverged: int = 0
    best_run: int = -1
    steps: int = 0
    restarts: int = 0

    @classmethod
    def resume(cls, state: State | None, problems: int) -> "_Progress":
        return cls([math.inf] * problems) if state is None else cls(**state)

    def state(self, step: int, variables: Variables, optimiser: torch.optim.Optimizer) -> State:
        return {
            **self.__dict__,
            "step": step,
            "variables": [v.detach() for v in variables],
            "optimiser": optimiser.state_dict(),
        }

    def note(self, problem: int, value: float, variables: Variables) -> None:
        self.history.append(value)
        if value < self.run_best:
            self.run_best = value
        if value < self.best_by_problem[problem]:
            self.best_by_problem[problem] = value
        if value < self.best_value or not self.best:
            self.best = [v.detach().clone() for v in variables]
            self.best_value = value if math.isfinite(value) else math.inf
            self.best_problem, self.best_run = problem, self.run

    def plan(self, steps: int, restarts: int) -> None:
        """How long runs are, and how many: as was said first, unless the time allows fewer."""
        self.steps, self.restarts = min(self.steps or steps, steps), min(self.restarts or restarts, restarts)

    def turn_to(self, run: int) -> None:
        """A run that was not begun before begins."""
        self.run = run

    def end_run(self) -> None:
        self._keep_history()
        self.run, self.step, self.variables, self.optimiser = self.run + 1, 0, None, None
        self.run_best, self.history = math.inf, []

    def _keep_history(self) -> None:
        if self.best_run == self.run:
            self.best_history = self.history

    def found(self, *, complete: bool) -> Found:
        self._keep_history()
        return Found(
            self.best_problem,
            self.best,
            self.best_value,
            tuple(self.best_history),
            tuple(self.best_by_problem),
            self.diverged,
            complete,
        )
