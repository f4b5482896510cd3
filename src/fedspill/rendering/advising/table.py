"""What leaks, the changes that stop it, and what else was tried."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedspill.rendering.advising import words
from fedspill.report.advice import Advice, Change

HEADS = ("change", "leaked before", "after", "accuracy", "bound")


def show(advice: Advice, console: Console) -> None:
    """All of it; the settings stand below the table again, whole, to be copied."""
    _say(console, advice.sentence)
    for leak in advice.leaks:
        _say(console, f"  {words.leak(leak)}")
    _say(console, words.conclusion(advice), "bold")
    if advice.changes:
        console.print(_table(advice.changes))
        for place, change in enumerate(advice.changes, 1):
            _say(console, f"  {place}. {words.settings(change)}")
            if change.elsewhere is not None:
                _say(console, f"     {words.elsewhere(change.elsewhere)}")
            if not change.after.converged:
                _say(console, f"     {words.UNTRUSTED}")
            if change.bound is not None:
                _say(console, f"     {words.bound_sentence(change.bound)}")
        _say(console, next(filter(None, (words.priced(c.price) for c in advice.changes)), ""))
    for walk in advice.walks:
        if walk.tried[-1].found != "stops":
            _say(console, f"Not advised: {words.walked(walk)}")
    for note in advice.notes:
        _say(console, f"Note: {note}.")
    _say(console, f"{advice.seconds:.0f} s of measurements, of {advice.budget:.0f} s given.")


def _table(changes: list[Change]) -> Table:
    table = Table(box=None, pad_edge=False)
    for head in ("", *HEADS):
        table.add_column(head, overflow="fold")
    for place, change in enumerate(changes, 1):
        cells = (words.share(change.before), words.share(change.after), words.accuracy(change.price))
        table.add_row(str(place), *map(Text, (change.what, *cells, words.bound(change))))
    return table


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True, style=style or None)
