"""Commands of `fedspill`; everything that they list comes from the catalogue and the zoo."""

import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

import fedspill
from fedspill import catalogue
from fedspill.auditing import read_plan, run_audit
from fedspill.cli.attack import capture_command
from fedspill.cli.demo import run_demo
from fedspill.cli.doctor import examine
from fedspill.cli.progress import TerminalListener
from fedspill.cli.train import app as train_app
from fedspill.cli.vet import vet_command
from fedspill.core.errors import FedspillError
from fedspill.plan.sections import AuditPlan
from fedspill.rendering.folder import HTML_FILE, write_views
from fedspill.rendering.terminal import summary
from fedspill.report.schema import redact as redacted
from fedspill.report.store import read_report, read_texts
from fedspill.zoo import data, models

BAD_INPUT = 2
DEFECT = 70

app = typer.Typer(
    name="fedspill",
    help="How much of the clients' private data can be rebuilt from federated learning updates.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Out = Annotated[Path | None, typer.Option("--out", help="Folder for the results.", show_default=False)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over where --out already holds this run.")]


def _console() -> Console:
    return Console(stderr=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedspill {fedspill.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """How much of the clients' private data can be rebuilt from federated learning updates."""


@app.command(epilog="Example:  fedspill demo --out my-demo")
def demo(
    out: Out = None,
    device: Device = "auto",
    fresh: Fresh = False,
) -> None:
    """Attack three settings on embedded photographs and show what leaked (about a minute)."""
    folder = out or Path("fedspill-demo")
    with TerminalListener(_console()) as listener:
        results = run_demo(folder, listener, device, fresh)
    console = Console()
    for result in results:
        console.print(result.report.verdict.sentence, markup=False)
    console.print(f"Open {folder / 'index.html'} to see what was rebuilt.", markup=False, style="bold")


@app.command(
    epilog="Examples:  fedspill audit plan.toml  |  fedspill audit plan.toml --set client.num_examples=8 --budget 5m"
)
def audit(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="What to audit; see docs/plan.md.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the plan; may be repeated."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Time for all trials together, such as 90s, 5m or 1h.")
    ] = None,
    quality: Annotated[
        str | None, typer.Option("--quality", help="Stop a search at this PSNR by its own estimate, such as 20dB.")
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", metavar="N", help="Updates taken together by attacks that can; best on a GPU."),
    ] = None,
    device: Device = "auto",
    out: Out = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a summary.")] = False,
    redact: Annotated[
        bool, typer.Option("--redact", help="Keep no private pixel and no reconstruction, only numbers.")
    ] = False,
    fresh: Fresh = False,
) -> None:
    """Attack the updates of a planned federation and judge what leaked.

    Exit code: 0 passed or not shown, 1 leaks, 2 bad input, 3 nothing was shown and nothing can be concluded.
    """
    extra = [f'audit.{key}="{given}"' for key, given in (("budget", budget), ("quality", quality)) if given]
    extra += [] if at_once is None else [f"audit.at_once={at_once}"]
    read = read_plan(plan, [*(settings or []), *extra])
    folder = out or Path(f"fedspill-{plan.stem}")
    raise typer.Exit(_audit(read, folder, device, as_json, redact, fresh))


def _audit(plan: AuditPlan, folder: Path, device: str, as_json: bool, redact: bool, fresh: bool) -> int:
    with TerminalListener(_console()) as listener:
        result = run_audit(
            plan, out=folder, device=device, listener=listener, fresh=fresh, redact=redact, command=_command()
        )
    report = write_views(folder, result.report, result.tensors, result.texts)
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        console = Console()
        summary(report, console, result.texts)
        console.print(f"Report: {folder / HTML_FILE}", markup=False, style="bold")
    return report.verdict.exit_code


def _command() -> str:
    return " ".join(["fedspill", *sys.argv[1:]])


app.add_typer(train_app)
app.command(
    name="attack",
    epilog="Example:  fedspill attack --model my_package.nets:make --weights global.safetensors"
    " --update update.safetensors --kind gradient --shape 3x32x32 --num-examples 1",
)(capture_command)
app.command(
    name="vet",
    epilog="Example:  fedspill vet --model cnn --weights received.safetensors",
)(vet_command)


@app.command(name="list", epilog="Example:  fedspill list attacks")
def list_(
    what: Annotated[
        Literal["attacks", "tamperings", "defences", "checks", "models", "data"],
        typer.Argument(help="attacks, tamperings, defences, checks, models or data."),
    ],
) -> None:
    """What there is to choose from."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    rows = _cards(table, what) if what not in ("models", "data") else _sources(table, what)
    for row in rows:
        table.add_row(*row)
    Console().print(table if rows else f"There are no {what} yet.")


def _cards(table: Table, what: str) -> list[tuple[str, ...]]:
    attacking = what in ("attacks", "tamperings")
    for heading in ("name", "presets", *(("server", "needs") if attacking else ()), "what it does", "paper"):
        table.add_column(heading, overflow="fold")
    cards = {
        "attacks": catalogue.attacks,
        "tamperings": catalogue.tamperings,
        "defences": catalogue.defences,
        "checks": catalogue.checks,
    }[what]()
    return [
        (
            n,
            ", ".join(c.presets),
            *((c.role.value, ", ".join(sorted(k.value for k in c.needs)) or "-") if attacking else ()),
            c.summary,
            c.paper,
        )
        for n, c in cards.items()
    ]


def _sources(table: Table, what: str) -> list[tuple[str, ...]]:
    table.add_column("name", no_wrap=True)
    table.add_column("what it is")
    table.add_column("options" if what == "models" else "splits", overflow="fold")
    if what == "models":
        return [(e.name, e.summary, e.options) for e in models.listing()]
    table.add_column("keys")
    return [(e.name, e.summary, ", ".join(e.splits), ", ".join(e.keys) or "-") for e in data.listing()]


@app.command()
def doctor() -> None:
    """Is this machine fit to run an audit, and what is missing for more?"""
    marks = {
        "ok": "[green]ok[/green]",
        "optional": "[yellow]optional[/yellow]",
        "problem": "[red]problem[/red]",
    }
    table = Table(box=None, show_header=False, pad_edge=False)
    lines = examine()
    for line in lines:
        table.add_row(marks[line.level], line.what, line.found)
    Console().print(table)
    raise typer.Exit(1 if any(line.level == "problem" for line in lines) else 0)


@app.command(epilog="Example:  fedspill report fedspill-plan --redact")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of an audit.")],
    redact: Annotated[
        bool, typer.Option("--redact", help="Write to DIR/redacted a report without private examples.")
    ] = False,
) -> None:
    """Write the views of a finished audit again, and show its summary."""
    found, tensors = read_report(folder)
    texts = read_texts(folder)
    console = Console()
    if redact:
        views = folder / "redacted"
        views.mkdir(exist_ok=True)
        found, texts = write_views(views, redacted(found), {}), {}
    else:
        views = folder
        found = write_views(folder, found, tensors, texts)
    summary(found, console, texts)
    console.print(f"Report: {views / HTML_FILE}", markup=False, style="bold")


def main() -> None:
    """The command's entry: errors that a user can mend are one line on stderr and exit code 2."""
    sys.path.insert(0, "")  # the user's own package.module:factory lies in the current folder
    try:
        app()
    except FedspillError as error:
        _console().print(f"fedspill: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _console().print(f"fedspill: {error.strerror or error}{where}", style="red", markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    except Exception:  # a defect of fedspill or of the user's own code must not read as "leaks" (1)
        traceback.print_exc()
        sys.exit(DEFECT)
