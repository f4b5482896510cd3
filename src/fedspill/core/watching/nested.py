"""Many long steps under one watch: a killed run goes on in the step that it was in."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedspill.core.watching.watch import Forecast, State, Watch


class JobsWatch:
    """Keeps what parts gave, and the state of the one that runs.

    Unlike `PhaseWatch` it keeps nothing of a part that the budget ended but its last state, so that a larger budget
    goes on there.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        loaded = watch.load() or {}
        self._kept: dict[str, State] = dict(loaded.get("kept", {}))
        self._running: dict[str, State] = dict(loaded.get("running", {}))
        self._has_forecast = False

    def kept(self, name: str) -> State | None:
        """What was kept under this name, also by a run that was killed."""
        return self._kept.get(name)

    def keep(self, name: str, states: Mapping[str, State], *, complete: bool) -> None:
        """Keeps what the part `name` gave, unless it is not `complete`: the budget ended before it was done.

        Args:
            name: of the part.
            states: what it gave, by names of its own.
            complete: False keeps nothing.
        """
        if complete:
            self._kept |= states
            self._running.pop(name, None)
            self._watch.save(lambda: {"kept": dict(self._kept), "running": dict(self._running)}, last=True)

    def watch(self, name: str, before: int, jobs: int, total: int) -> Watch:
        """The watch of one part.

        Args:
            name: unique to what the part does, by which its state is found again.
            before: jobs that are done.
            jobs: of this part.
            total: jobs of all parts.
        """
        return _Part(self, self._watch, name, before, jobs, total)

    def state(self, name: str) -> State | None:
        """The state in which a killed run left this part, if any."""
        return self._running.get(name)

    def together(self, name: str, state: State, *, last: bool) -> State:
        """What is written while a part runs; its last state is written with those of the parts after it, too."""
        running = {**self._running, name: dict(state)}
        self._running = running if last else self._running
        return {"kept": dict(self._kept), "running": running}

    def first_forecast(self) -> bool:
        """True once: one forecast tells of all parts."""
        first, self._has_forecast = not self._has_forecast, True
        return first


@dataclass(frozen=True)
class _Part:
    """The watch of one part: progress and forecast count all jobs."""

    parts: JobsWatch
    whole: Watch
    name: str
    before: int
    jobs: int
    total: int

    def progress(self, done: int, total: int, objective: float) -> None:
        each = total // self.jobs
        self.whole.progress(self.before * each + done, self.total * each, objective)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        self.whole.save(lambda: self.parts.together(self.name, state(), last=last), last=last)

    def load(self) -> State | None:
        return self.parts.state(self.name)

    def out_of_time(self) -> bool:
        return self.whole.out_of_time()

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        if self.parts.first_forecast():
            self.whole.forecast(lambda: self._of_all(forecast()))

    def quality(self) -> float | None:
        return self.whole.quality()

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        return self.whole.planned(steps, restarts, seconds * (self.total - self.before) / self.jobs)

    def _of_all(self, forecast: Forecast) -> Forecast:
        remaining = self.total - self.before
        return replace(forecast, iterations=round(forecast.iterations * remaining / self.jobs), jobs=remaining)


class PhaseWatch:
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
        """The state in which a killed run left this step, if any."""
        return self._running.get(name)

    def together(self, name: str, state: State) -> dict[str, Any]:
        """What is written while the step `name` runs."""
        return {"done": dict(self._done), "running": {name: dict(state)}}


@dataclass(frozen=True)
class _Stage:
    """The watch of one step."""

    stages: PhaseWatch
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

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        self.watch.forecast(forecast)

    def quality(self) -> float | None:
        return self.watch.quality()

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        return self.watch.planned(steps, restarts, seconds)
