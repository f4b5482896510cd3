"""How far a search for advice is: what is measured, and how much of the budget is left."""

from rich.console import Console
from rich.progress import BarColumn, TextColumn

from fedspill.cli.progress import Bars
from fedspill.rendering.numbers import brief, duration

LETTERS = 80
"""Of a change."""


class TerminalWatcher(Bars):
    """A bar of the budget; where the output is no terminal a line every `PLAIN_SECONDS` instead."""

    def __init__(self, console: Console) -> None:
        what, note = TextColumn("{task.description}"), TextColumn("{task.fields[note]}")
        super().__init__(console, what, BarColumn(bar_width=24), note)
        self._bar = self.drawn.add_task("budget", total=None, note="")

    def begins(self, what: str, spent: float, limit: float) -> None:
        """Moves the bar."""
        words, left = brief(what, LETTERS), f"at most about {duration(max(0.0, limit - spent))} left"
        self.drawn.update(self._bar, description=words, completed=spent, total=limit, note=left)
        if self.line_is_due():
            self.console.print(f"{words}; {left}", markup=False, highlight=False)
