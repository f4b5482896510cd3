"""Progress with an ETA for the terminal."""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.text import Text

PLAIN_SECONDS = 15.0


@dataclass
class WholeTime:
    """How long all of it still takes: by the share that is done, and never beyond the budget's end.

    Attributes:
        end: `time.monotonic()` of the budget's end; None is no limit.
        done: share of all that is done, in [0, 1].
    """

    end: float | None = None
    began: float = field(default_factory=time.monotonic)
    done: float = 0.0

    def left(self, now: float) -> float | None:
        """Seconds; None if nothing tells yet."""
        guesses = [] if self.end is None else [max(0.0, self.end - now)]
        if self.done > 0:
            guesses.append((now - self.began) * (1 - self.done) / self.done)
        return min(guesses, default=None)

    def words(self, now: float) -> str:
        """For a person."""
        left = self.left(now)
        return "" if left is None else f"about {left:.0f} s left"


class _Left(ProgressColumn):
    """The one time of a display, beside its upper bar, or the only one."""

    def __init__(self, whole: WholeTime, beside: Callable[[], TaskID]) -> None:
        super().__init__()
        self._whole, self._beside = whole, beside

    def render(self, task: Task) -> Text:
        """Nothing beside the other bar."""
        return Text(self._whole.words(time.monotonic()) if task.id == self._beside() else "")


class Bars(AbstractContextManager[Any]):
    """Bars that are drawn while it is entered, where the output is a terminal; else lines, `PLAIN_SECONDS` apart."""

    def __init__(self, console: Console, *columns: ProgressColumn) -> None:
        self.console, self.live = console, console.is_terminal
        self.drawn = Progress(SpinnerColumn(), *columns, console=console, transient=True)
        self._told = time.monotonic()

    def __enter__(self) -> Self:
        if self.live:
            self.drawn.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.drawn.stop()

    def line_is_due(self) -> bool:
        """Whether a line is to be written now; counts as written."""
        now = time.monotonic()
        due = not self.live and now - self._told > PLAIN_SECONDS
        self._told = now if due else self._told
        return due


class TerminalListener(Bars):
    """Two bars: the trials of the audit, and below it the clients' examples or the attack's iterations.

    Where the output is no terminal (a log, CI) a plain line is written every `PLAIN_SECONDS` instead.

    Args:
        end: `time.monotonic()` of the budget's end; None is no limit.
    """

    def __init__(self, console: Console, end: float | None = None) -> None:
        self._whole, self._place, self._several = WholeTime(end), (0, 1), False
        super().__init__(
            console,
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _Left(self._whole, lambda: self._trials if self._several else self._steps),
            TextColumn("{task.fields[note]}"),
        )
        self._trials = self.drawn.add_task("trials", total=None, note="", visible=False)
        self._steps = self.drawn.add_task("iterations", total=None, note="", visible=False)
        self._trial, self._counted = "", ""

    def trial(self, number: int, total: int, name: str) -> None:
        """Moves the upper bar and empties the lower one."""
        self._trial, self._counted = f"trial {number} of {total}: {name}", ""
        self._place, self._several, self._whole.done = (number - 1, total), total > 1, (number - 1) / total
        self.drawn.update(self._trials, completed=number - 1, total=total, description=name, visible=total > 1)
        self._count("iterations")

    def progress(self, done: int, total: int, objective: float) -> None:
        """Moves the lower bar."""
        self._step("iterations", done, total, f"objective {objective:.4g}" if math.isfinite(objective) else "")

    def clients(self, done: int, total: int) -> None:
        """Moves the lower bar, which counts the clients' examples until the attack begins."""
        self._step("examples of the clients", done, total, "")

    def _count(self, what: str) -> None:
        if what != self._counted:
            self._counted = what
            self.drawn.reset(self._steps, total=None, note="", visible=True, description=what)

    def _step(self, what: str, done: int, total: int, note: str) -> None:
        self._count(what)
        self.drawn.update(self._steps, completed=done, total=total, note=note)
        before, trials = self._place
        self._whole.done = (before + done / max(1, total)) / trials
        if self.line_is_due():
            left = self._whole.words(time.monotonic())
            words = f"{done} of {total} {what}, {note}, {left}".replace(", ,", ",").rstrip(", ")
            self.console.print(f"{self._trial}: {words}" if self._trial else words)

    def message(self, text: str) -> None:
        """A line above the bars."""
        self.console.print(text, style="yellow", markup=False)

    def found(self, text: str) -> None:
        """A line above the bars, of what came out."""
        self.console.print(text, style="bold", markup=False)
