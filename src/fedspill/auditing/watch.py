"""The audit's side of a running attack: progress for the eye, checkpoints for a kill, the budget's end."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from fedspill.core.memory import words
from fedspill.core.roles import Forecast, State
from fedspill.core.tensor_files import write_state

CHECKPOINT_SECONDS = 5.0
USEFUL = 0.1
"""Share of its iterations below which a search that the budget ended, and that found nothing, says nothing.

Of the 44 searches of benchmarks/results/quality_traces.json that rose by 3 dB or more, the median had half of its gain
after a tenth of its iterations, a quarter of it after a fortieth.
"""
LEAST = 4
"""Iterations of the one search that runs where none can be of use: it shows how far a short one comes, and no more."""


@runtime_checkable
class Listener(Protocol):
    """Whoever shows an audit's progress."""

    def trial(self, number: int, total: int, name: str) -> None:
        """A trial begins; `number` counts from 1."""
        ...

    def progress(self, done: int, total: int, objective: float) -> None:
        """Iterations of the running trial."""
        ...

    def clients(self, done: int, total: int) -> None:
        """Examples of the running trial that its clients have gone through, where they take micro-batches."""
        ...

    def message(self, text: str) -> None:
        """Something that a person should read."""
        ...

    def found(self, text: str) -> None:
        """What came out so far, while the rest runs, and how long that may be."""
        ...


class Silent:
    """Shows nothing."""

    def trial(self, number: int, total: int, name: str) -> None:
        """Shows nothing."""

    def progress(self, done: int, total: int, objective: float) -> None:
        """Shows nothing."""

    def clients(self, done: int, total: int) -> None:
        """Shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""

    def found(self, text: str) -> None:
        """Shows nothing."""


@dataclass
class TrialWatch:
    """Watches one attack.

    Attributes:
        checkpoint: file of its state; None keeps none.
        deadline: `time.monotonic()` at which its budget ends; None is no limit.
        wanted: PSNR in dB at which a search may stop by its own estimate.
        trials: of this attack that are left, this one among them, for the forecast of all; 0 tells no forecast.
        attacked: names of the trials that are attacked at once; a state of others is not gone on from.
        hard: `time.monotonic()` at which even what must follow the search is given up; None never.
        fits: a search is planned for what its time allows, rather than cut where that ends.
        more: of the seconds that the least useful part of the search takes, the seconds that it gets besides its share,
            as nobody else can use them.
        alone: no search that comes later can be of use.
        useful: share of its iterations below which a search is not started, unless it is alone.
        poor: share of its iterations that a search was planned for, if that is too small to be of use.
        ended: the attack was told that its time is out.
        useless: why the search was not gone on with, if what its time allows would have been of no use.
        plan: what a search was shortened to, in words.
        share: seconds from its start to its deadline, as they were given.
        forecasted: what the attack's search expected to need.
        searched: share of its iterations that the attack says it has made.
    """

    listener: Listener
    checkpoint: Path | None = None
    deadline: float | None = None
    wanted: float | None = None
    trials: int = 1
    attacked: tuple[str, ...] = ()
    hard: float | None = None
    fits: bool = False
    more: Callable[[float], float] | None = None
    alone: bool = False
    useful: float = USEFUL
    poor: float | None = None
    ended: bool = False
    useless: str | None = None
    plan: str | None = None
    share: float | None = None
    forecasted: Forecast | None = None
    searched: float = 0.0
    _asked: int = 0
    _written: float = field(default_factory=time.monotonic)

    def progress(self, done: int, total: int, objective: float) -> None:
        """Passes it on."""
        self.searched = done / max(1, total)
        self.listener.progress(done, total, objective)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Writes the state, the last one or one every few seconds; the file is whole or not there."""
        if self.checkpoint is None or not (last or time.monotonic() - self._written >= CHECKPOINT_SECONDS):
            return
        attack_state = dict(state())
        self._write({"attacked": list(self.attacked), "state": attack_state} if self.attacked else attack_state)

    def _write(self, state: State) -> None:
        assert self.checkpoint is not None
        write_state(self.checkpoint, state)
        self._written = time.monotonic()

    def load(self) -> State | None:
        """The state of a broken run; an unreadable one is set aside and the attack starts anew."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return None
        try:
            state: Any = torch.load(self.checkpoint, weights_only=True)
        except Exception as error:  # any damage means the same: it cannot be used
            self.listener.message(f"the checkpoint {self.checkpoint.name} cannot be read ({error}); starting anew")
            return None
        if self.attacked:
            if state.get("attacked") != list(self.attacked):
                self.listener.message(f"the checkpoint {self.checkpoint.name} is of other trials; starting anew")
                return None
            state = state["state"]
        self.listener.message(f"going on from the checkpoint {self.checkpoint.name}")
        return state

    def attacked_before(self) -> tuple[str, ...]:
        """What `attacked` was in a broken run; none if nothing was kept, or nothing that can be read."""
        try:
            assert self.checkpoint is not None
            state: Any = torch.load(self.checkpoint, weights_only=True, mmap=True)
            return tuple(state["attacked"])
        except Exception:  # as for `load`, which says so
            return ()

    def out_of_time(self) -> bool:
        """Whether the budget has ended; once it has, it stays so."""
        if not self.ended and self.deadline is not None and time.monotonic() >= self.deadline:
            self.ended = True
        return self.ended

    def last_moment(self) -> float:
        """`hard`, which may be put off while the attack runs; infinite where there is none."""
        return math.inf if self.hard is None else self.hard

    def leave(self, seconds: float) -> None:
        """Leaves so many of its seconds to what follows the search."""
        if self.deadline is not None:
            self.deadline = max(time.monotonic(), self.deadline - seconds)

    def forecast(self, forecast: Callable[[], Forecast]) -> None:
        """Keeps the forecast, and tells the listener of it."""
        self.forecasted = forecast()
        if self.trials:
            remaining = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            self.listener.message(forecast_sentence(self.forecasted, self.trials, remaining))

    def quality(self) -> float | None:
        """PSNR in dB at which a search may stop; None never stops it."""
        return self.wanted

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        """As many as the time allows, of a search that is planned for it; none are of use below a tenth of a run."""
        if not self.fits or self.deadline is None:
            return steps, restarts
        first = self._asked == 0
        if first:
            self._take_more(self.useful * steps * seconds)
        left = max(0.0, self.deadline - time.monotonic())
        self._asked = self._asked or steps * restarts
        possible = int(left / max(seconds, 1e-9))
        if possible >= steps * restarts:
            return steps, restarts
        shorter = (steps, possible // steps) if possible >= steps else (max(1, possible), 1)
        if first and shorter[0] < self.useful * steps and self.alone and possible >= LEAST:
            self.poor = shorter[0] / steps
        elif first and shorter[0] < self.useful * steps:
            self.ended, least = True, math.ceil(self.useful * steps)
            self.useless = (
                f"{least} of {steps} iterations, the least that are of use, would take {duration(least * seconds)};"
                f" its share of the budget leaves {duration(left)}"
            )
            return steps, restarts
        self.plan = (
            f"Planned for fewer than the {self._asked:,} iterations of its preset: for as many as its share of the"
            f" budget allows ({duration(self.share if self.share is not None else left)})."
        )
        return shorter

    def _take_more(self, useful: float) -> None:
        """A longer share where those that come later cannot use theirs."""
        if self.more is not None and self.deadline is not None and self.share is not None:
            more = self.more(useful)
            self.deadline, self.share = self.deadline + more, self.share + more
            self.hard = None if self.hard is None else self.hard + more


def forecast_sentence(forecast: Forecast, trials: int, remaining: float | None) -> str:
    """A forecast in a sentence.

    Args:
        forecast: of one trial, or of those that are searched at once.
        trials: of its kind.
        remaining: seconds of its budget; None is no limit.
    """
    together = forecast.jobs
    rate, whose = 1 / max(forecast.seconds, 1e-9), f" of {together} trials at once" if together > 1 else ""
    sentence = (
        f"about {rate:.3g} iterations a second, so {forecast.iterations:,}{whose} take {duration(forecast.total)}"
    )
    if remaining is not None and remaining < forecast.total:
        sentence += f", of which the budget leaves {duration(remaining)}"
    elif trials > together:
        sentence += f", and {trials} such trials {duration(trials / together * forecast.total)}"
    return sentence if forecast.memory is None else f"{sentence}; about {words(forecast.memory)} of memory"


def duration(seconds: float) -> str:
    """Seconds in words, such as "45 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
