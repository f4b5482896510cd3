"""A tested filter chain for a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedspill.rendering.filtering import words
from fedspill.report.filtering import Fate, Filtering


def show(done: Filtering, console: Console) -> None:
    """Prints the headline, tensors, attacks, findings, and what all of it holds for."""
    style = "bold red" if done.alarms else "bold"
    console.print(words.headline(done), style=style, markup=False)
    console.print(words.scope(done), markup=False)
    console.print(_tensors(done))
    for line in (words.what_left(done), words.odd(done)):
        if line:
            console.print(line, markup=False)
    if done.before or done.after:
        console.print(_attacks(done))
        console.print(words.criterion(done), markup=False)
    if done.findings:
        console.print(_findings(done))
    console.print(words.privacy(done), markup=False, style="bold")
    for note in done.notes:
        console.print(note, markup=False)
    console.print(words.NO_PROOF, style="yellow")


def _tensors(done: Filtering) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("tensor", overflow="fold")
    table.add_column("is", overflow="fold")
    table.add_column("values", justify="right")
    table.add_column("what became of it", overflow="fold")
    table.add_column("cosine", justify="right")
    for fate in done.fates:
        table.add_row(Text(fate.name), fate.kind, f"{fate.size:,}", Text(", then ".join(fate.became)), _cosine(fate))
    return table


def _cosine(fate: Fate) -> str:
    return "" if fate.cosine is None else f"{fate.cosine:.3f}"


def _attacks(done: Filtering) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("attack", *(f"rebuilt {server}" for server in words.servers(done))):
        table.add_column(heading, overflow="fold")
    for row in words.leakage(done):
        table.add_row(*map(Text, row))
    return table


def _findings(done: Filtering) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("severity", justify="right")
    table.add_column("what is wrong, and what to do", overflow="fold")
    for found in done.findings:
        said = Text(f"[{found.rule}] {found.text}")
        table.add_row(f"{found.severity:.2f}", said, style="red" if found in done.alarms else "")
    return table
