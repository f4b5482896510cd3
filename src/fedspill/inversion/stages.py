"""Several long steps one after the other under one watch: a killed run goes on in the step that it was in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedspill.core.roles import Forecast, State, Watch


class Stages:
    """Runs named steps in turn; what a step gave is kept with the state of the one that runs.

    Args:
        watch: of all steps; hears of each one's own progress.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        loaded = watch.load() or {}
        self._done: dict[str, State] = dict(loaded.get("done", {}))
        self._running: dict[str, State] = dict(loaded.get("running", {}))

    def run(self, name: str, work: Callable[[Watch], State]) -> State:
        """What `work` gives, or gave before the run was killed.

        Args:
            name: of the step.
            work: takes the watch to report to, gives tensors, numbers and strings.
        """
        if name not in self._done:
            self._done[name] = work(_Stage(self, name, self._watch))
            self._watch.save(lambda: {"done": dict(self._done)}, last=True)
        return self._done[name]

    def earlier(self, name: str) -> State | None:
        """The state in which a killed run left this step."""
        return self._running.get(name)

    def together(self, name: str, state: State) -> dict[str, Any]:
        """What is written while the step `name` runs."""
        return {"done": dict(self._done), "running": {name: dict(state)}}


@dataclass(frozen=True)
class _Stage:
    """The watch of one step."""

    stages: Stages
    name: str
    watch: Watch

    def progress(self, done: int, total: int, objective: float) -> None:
        self.watch.progress(done, total, objective)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.watch.save(lambda: self.stages.together(self.name, state()), last=last)

    def load(self) -> State | None:
        return self.stages.earlier(self.name)

    def out_of_time(self) -> bool:
        return self.watch.out_of_time()

    def foresee(self, forecast: Callable[[], Forecast]) -> None:
        self.watch.foresee(forecast)

    def quality(self) -> float | None:
        return self.watch.quality()
