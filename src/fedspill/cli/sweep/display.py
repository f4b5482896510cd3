"""Progress of a sweep with an estimate of the time that is left."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from fedspill.cli.progress import Bars
from fedspill.rendering.numbers import brief, duration
from fedspill.report.sweep import Outcome
from fedspill.sweeping.ledger import Counts

LETTERS = 160
"""Of a reason on the screen; the row has it whole."""


class TerminalFollower(Bars):
    """A bar of the trials; where the output is no terminal a line every `PLAIN_SECONDS` instead."""

    def __init__(self, console: Console) -> None:
        note = TextColumn("{task.fields[note]}")
        super().__init__(console, TextColumn("trials"), BarColumn(bar_width=24), MofNCompleteColumn(), note)
        self._bar = self.drawn.add_task("trials", total=None, note="")
        self._before: int | None = None
        self._first: tuple[float, int] | None = None

    def counts(self, counts: Counts, own: int) -> None:
        """Moves the bar."""
        self._before = counts.ended if self._before is None else self._before
        if self._first is None and counts.ended > self._before:
            self._first = time.monotonic(), counts.ended
        note = self._note(counts, own)
        self.drawn.update(self._bar, completed=counts.ended, total=counts.total, note=note)
        if self.line_is_due():
            self.console.print(f"{counts.ended} of {counts.total} trials, {note}", markup=False, highlight=False)

    def _note(self, counts: Counts, own: int) -> str:
        """Who runs the others, and how long the rest takes at the speed so far, of all processes together."""
        elsewhere, left = counts.running - own, self._left(counts)
        told = [f"{own} running", *([f"{elsewhere} in other processes"] if elsewhere > 0 else [])]
        told += [] if left is None else [f"about {duration(left)} left"]
        return ", ".join(told)

    def _left(self, counts: Counts) -> float | None:
        """Seconds; from the first end on, since until then processes are started."""
        if self._first is None or counts.ended == self._first[1]:
            return None
        began, done = self._first
        return (time.monotonic() - began) / (counts.ended - done) * (counts.total - counts.ended)

    def ended(self, digest: str, outcome: Outcome) -> None:
        """Says what failed; what is done stands in the table."""
        if outcome.state == "failed":
            self.message(f"trial {digest[:12]} failed: {outcome.error}")

    def message(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(brief(text, LETTERS), style="yellow", markup=False, highlight=False)
