"""A report's essentials for the terminal."""

from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedspill.rendering import facts, numbers
from fedspill.rendering.bins import bins_read
from fedspill.rendering.defences import defence_rows, utility_sentence
from fedspill.rendering.facts import MetricInfo
from fedspill.rendering.headline.advice import Advice, advice
from fedspill.rendering.headline.guarantees import blocks
from fedspill.rendering.headline.roles import RoleRow, role_rows
from fedspill.rendering.headline.words import WORDS
from fedspill.rendering.html import view
from fedspill.rendering.html.view import AttackRow
from fedspill.rendering.rounds import RoundRow, round_rows
from fedspill.rendering.texts import Piece, text_pairs_of, worst_texts
from fedspill.report.schema import AuditReport
from fedspill.report.store import Texts

_WIDEST_WORD = max(len(words.word) for words in WORDS.values())
_MOST_WORST = 5
_MOST_TEXTS = 3
_MOST_TRIALS = 6


def summary(report: AuditReport, console: Console, texts: Texts | None = None) -> None:
    """Prints verdict, a line for each kind of server, and what to change; then what it rests on.

    Args:
        texts: examples as text, of sentences and tables.
    """
    metric = facts.main_metric(report)
    console.print(_verdict(report))
    for row in role_rows(report):
        console.print(_role(row))
    for block in blocks(report):
        _bullets(console, f"{block.name} {block.about}", [escape(line) for line in block.lines])
    _bullets(console, "What to change first", [_advised(item) for item in advice(report)])
    console.print()
    console.print(_headline(report))
    if report.feeding is not None and report.feeding.warning is not None:
        console.print(Text(f"\n{report.feeding.warning}", style="bold yellow"))
    console.print(_attacks(report, metric))
    for line in _reasons(report, metric):
        console.print(line)
    for name, rows in round_rows(report):
        console.print(_rounds(report, name, rows))
    if report.worst:
        console.print(_worst(report))
    for line in _texts(report, texts or {}):
        console.print(line)
    _bullets(console, "What was read, bin by bin", _bins(report))
    _bullets(console, "Defences of the clients", _defences(report))
    if (learnt := utility_sentence(report)) is not None:
        console.print(Text(f"\n{learnt}"))
    _bullets(console, "Caveats", [f"[b]{escape(c.topic)}[/b]: {escape(c.text)}" for c in report.caveats])
    _bullets(console, "Not tested", [escape(item) for item in report.not_tested])
    console.print(_conditions(report))


def _verdict(report: AuditReport) -> Panel:
    words = WORDS[report.verdict.name]
    body = Group(Text(report.verdict.sentence), Text(words.always, style=words.colour))
    title = f"[b]{words.word.upper()}[/b]"
    return Panel(body, title=title, title_align="left", border_style=words.colour, padding=(0, 1))


def _role(row: RoleRow) -> Table:
    """The verdict's word beside what it rests on."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True, width=_WIDEST_WORD)
    grid.add_column(overflow="fold")
    said = [Text(f"{row.role} server", style="bold")]
    for name, text in row.facts:
        said += [Text("; "), Text(f"{name.lower()}: ", style="dim"), Text(text)]
    grid.add_row(Text(row.words.word.upper(), style=f"bold {row.words.colour}"), Text.assemble(*said))
    return grid


def _advised(item: Advice) -> str:
    command = f" [cyan]{escape(' '.join(item.command.splitlines()))}[/cyan]" if item.command else ""
    return f"[b]{escape(item.title)}.[/b] {escape(item.text)}{command}"


def _headline(report: AuditReport) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for tile in view.tiles(report):
        grid.add_row(tile.label, Text.assemble((tile.value, "bold"), "  ", (tile.note, "dim")))
    return grid


def _attacks(report: AuditReport, metric: MetricInfo | None) -> Table:
    unit = f", {metric.unit}" if metric and metric.unit else ""
    title = f"\nAttacks ({numbers.metric_name(metric.name)}{unit})" if metric else "\nAttacks (no score computed)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    table.add_column("attack", overflow="fold", ratio=1)
    for name in ("n", "worst", "median", "guess"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("leaked", justify="right")
    table.add_column("conv.", justify="right", no_wrap=True)
    for row in view.attack_rows(report, metric):
        table.add_row(Text(row.group.label), *_numbers(row, metric.unit if metric else ""), _converged(row))
    table.expand = True
    return table


def _numbers(row: AttackRow, unit: str) -> list[Text]:
    spread, share = row.spread, row.share
    values = (
        str(spread.n) if spread else "–",
        numbers.plain(spread.worst, unit) if spread else "–",
        numbers.plain(spread.median, unit) if spread else "–",
        numbers.plain(row.guess[1].median, unit) if row.guess else "–",
    )
    leaked = f"{share.hits}/{share.n}, {numbers.interval(share.low, share.high)}" if share else "–"
    return [*(Text(v) for v in values), Text(leaked, style="red" if share and share.hits else "")]


def _converged(row: AttackRow) -> Text:
    ran = len(row.group.ran)
    stuck = row.group.converged < ran
    return Text(f"{row.group.converged}/{ran}" if ran else "–", style="yellow" if stuck else "")


def _rounds(report: AuditReport, name: str, rows: list[RoundRow]) -> Table:
    measured = f"accuracy on {numbers.count(report.rounds[0].n, 'private example')} before each"
    title = Text(f"\nRound by round, {measured}" + (f". {name}" if name else ""), style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for head in ("round", "clients", "accuracy", "loss"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("leaked", justify="right", no_wrap=True)
    table.add_column("closest", justify="right", no_wrap=True)
    table.add_column("", overflow="fold", style="dim")
    for row in rows:
        leaked = Text(row.leaked, style="red" if row.hits else "")
        table.add_row(row.number, row.clients, row.accuracy, row.loss, leaked, row.worst, Text(row.note))
    return table


def _reasons(report: AuditReport, metric: MetricInfo | None) -> list[Text]:
    """What the table has no room for: why there is no number, and what the budget cut short."""
    lines: list[Text] = []
    for row in view.attack_rows(report, metric):
        cut = sum(t.ended_by_budget for t in row.group.ran)
        more = [f"{numbers.count(cut, 'run')} ended by the budget"] if cut else []
        lines += [Text(f"- {row.group.label}: {reason}", style="dim") for reason in (*row.reasons, *more)]
    return lines


def _worst(report: AuditReport) -> Table:
    total = len(report.worst)
    shown = min(_MOST_WORST, total)
    title = f"\nWorst examples ({shown} of {total})"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1))
    for name in ("example", "update", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("attack", overflow="fold")
    table.add_column("")
    for w in report.worst[:shown]:
        score = f"{numbers.metric_name(w.metric)} {numbers.score(w.metric, w.value, w.unit)}"
        leaked = Text("leaked", style="red") if w.leaked else Text("")
        attack = Text(view.attack_of(report, w.trial))
        table.add_row(str(w.example), str(w.update), score, attack, leaked)
    return table


def _texts(report: AuditReport, texts: Texts) -> list[Text]:
    """The worst examples as text, private above rebuilt, what differs marked."""
    lines: list[Text] = []
    for pair in worst_texts(report, text_pairs_of(report, texts))[:_MOST_TEXTS]:
        private, rebuilt = pair.pieces
        if not rebuilt or pair.private == pair.rebuilt:
            rebuilt = (Piece("the same, letter by letter" if rebuilt else "no reconstruction", same=True),)
        for name, pieces, style in (("private", private, "dim"), ("rebuilt", rebuilt, "red")):
            lines.append(Text.assemble((f"{name} ", "bold"), *((p.text, "" if p.same else style) for p in pieces)))
    return [Text(""), *lines] if lines else []


def _bins(report: AuditReport) -> list[str]:
    """One line of numbers per trial, with what the attack says of what it had to expect."""
    trials_read = bins_read(report, {}, {})
    lines = [f"[b]{escape(b.label)}[/b]: {escape(' '.join((b.line, *b.notes)))}" for b in trials_read[:_MOST_TRIALS]]
    more = len(trials_read) - len(lines)
    return [*lines, f"{numbers.count(more, 'trial')} more, in the report"] if more else lines


def _defences(report: AuditReport) -> list[str]:
    return [f"[b]{escape(d.label)}[/b]: {escape(d.fields)}. Proven: {escape(d.proven)}." for d in defence_rows(report)]


def _bullets(console: Console, title: str, items: list[str]) -> None:
    if not items:
        return
    console.print(f"\n[b]{title}[/b]")
    grid = Table.grid(padding=(0, 1))
    for item in items:
        grid.add_row("-", item)
    console.print(grid)


def _conditions(report: AuditReport) -> Text:
    e = report.environment
    where = f"fedspill {e.fedspill}, torch {e.torch}, {e.device_name}, {numbers.duration(e.seconds)}"
    return Text(f"\n{e.model} on {e.data}; {where}", style="dim")
