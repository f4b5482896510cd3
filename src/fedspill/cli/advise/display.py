"""How far a search for advice is: what is measured, and how much of the budget is left."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

from fedspill.cli.progress import PLAIN_SECONDS
from fedspill.rendering.numbers import brief, duration

LETTERS = 80
"""Of a change."""


class TerminalWatcher:
    """A bar of the budget; where the output is no terminal a line every `PLAIN_SECONDS` instead."""

    def __init__(self, console: Console) -> None:
        self._console, self._live, self._told = console, console.is_terminal, time.monotonic()
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._bar = self._bars.add_task("budget", total=None, note="")

    def __enter__(self) -> "TerminalWatcher":
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._bars.stop()

    def begins(self, what: str, spent: float, limit: float) -> None:
        """Moves the bar."""
        words, left = brief(what, LETTERS), f"at most about {duration(max(0.0, limit - spent))} left"
        self._bars.update(self._bar, description=words, completed=spent, total=limit, note=left)
        now = time.monotonic()
        if not self._live and now - self._told > PLAIN_SECONDS:
            self._console.print(f"{words}; {left}", markup=False, highlight=False)
            self._told = now
