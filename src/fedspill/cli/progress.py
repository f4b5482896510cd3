"""Progress with an ETA for the terminal."""

import math
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 15.0


class TerminalListener:
    """Two bars: the trials of the audit, and below it the clients' examples or the attack's iterations.

    Where the output is no terminal (a log, CI) a plain line is written every `PLAIN_SECONDS` instead.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._trials = self._bars.add_task("trials", total=None, note="", visible=False)
        self._steps = self._bars.add_task("iterations", total=None, note="", visible=False)
        self._trial, self._counted, self._began, self._told = "", "", time.monotonic(), time.monotonic()

    def __enter__(self) -> "TerminalListener":
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def trial(self, number: int, total: int, name: str) -> None:
        """Moves the upper bar and empties the lower one."""
        self._trial, self._counted = f"trial {number} of {total}: {name}", ""
        self._bars.update(self._trials, completed=number - 1, total=total, description=name, visible=total > 1)
        self._count("iterations")

    def progress(self, done: int, total: int, objective: float) -> None:
        """Moves the lower bar."""
        self._step("iterations", done, total, f"objective {objective:.4g}" if math.isfinite(objective) else "")

    def clients(self, done: int, total: int) -> None:
        """Moves the lower bar, which counts the clients' examples until the attack begins."""
        self._step("examples of the clients", done, total, "")

    def _count(self, what: str) -> None:
        if what != self._counted:
            self._counted, self._began = what, time.monotonic()
            self._bars.reset(self._steps, total=None, note="", visible=True, description=what)

    def _step(self, what: str, done: int, total: int, note: str) -> None:
        self._count(what)
        self._bars.update(self._steps, completed=done, total=total, note=note)
        now = time.monotonic()
        if not self._live and now - self._told > PLAIN_SECONDS:
            left = (now - self._began) / done * (total - done)
            words = f"{done} of {total} {what}, {note}, about {left:.0f} s left".replace(", ,", ",")
            self._console.print(f"{self._trial}: {words}" if self._trial else words)
            self._told = now

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(text, style="yellow", markup=False)

    def found(self, text: str) -> None:
        """A line above the bars, of what came out."""
        self._console.print(text, style="bold", markup=False)
