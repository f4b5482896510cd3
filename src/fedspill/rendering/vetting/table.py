"""A vetted model for a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedspill.rendering.vetting import words
from fedspill.report.vetting import Judged, Vetting


def show(vetting: Vetting, console: Console) -> None:
    """Prints the headline, a row for each finding, and what all of it rests on."""
    style = "bold red" if vetting.alarms else "bold"
    console.print(words.headline(vetting), style=style, markup=False)
    console.print(words.THREAT, markup=False)
    if vetting.findings:
        console.print(_table(vetting))
        console.print(_consequences(vetting))
    console.print(words.tally(vetting), markup=False, style="bold")
    console.print(words.scope(vetting), markup=False)
    console.print(words.checksum(vetting), markup=False)
    console.print(words.NO_PROOF, style="yellow")


def _table(vetting: Vetting) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("severity", justify="right")
    for heading in ("where", "why"):
        table.add_column(heading, overflow="fold")
    for judged in vetting.findings:
        found = judged.finding
        table.add_row(f"{found.severity:.2f}", Text(found.where), Text(_why(judged)), style=_style(judged))
    return table


def _consequences(vetting: Vetting) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("what could be read, and what to do", overflow="fold")
    for check, said in words.consequences(vetting):
        table.add_row(Text(check), Text(said))
    return table


def _why(judged: Judged) -> str:
    said = f"[{judged.finding.rule_id}] {judged.finding.explanation}"
    return f"{said} (accepted before)" if judged.accepted else said


def _style(judged: Judged) -> str:
    return "red" if judged.alarm else "dim" if judged.accepted else ""
