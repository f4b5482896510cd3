"""Commands of `fedspill`. What a command needs is imported when it runs, so that `--help` and `list` answer at once."""

import os
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

import fedspill
from fedspill.cli import early
from fedspill.cli.advise.command import advise_command
from fedspill.cli.attack import capture_command
from fedspill.cli.bounds.command import bounds_command
from fedspill.cli.exits import exit_code_of
from fedspill.cli.filters import EPILOG as FILTERS_EPILOG
from fedspill.cli.filters import filters_command
from fedspill.cli.rank import rank_command
from fedspill.cli.sweep.command import app as sweep_app
from fedspill.cli.train import app as train_app
from fedspill.cli.vet import vet_command

# Read when PyTorch is loaded. Threads that spin while they wait for each other stand still where another process keeps
# the cores busy: a LeNet is read in 5 s instead of not within 30 s. On a quiet machine sleeping costs next to nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

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
Summary = Annotated[str | None, typer.Option("--summary", metavar="md|FILE.md", help=early.HELP)]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over where --out already holds this run.")]


def _console() -> Console:
    return Console(stderr=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedspill {fedspill.__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 passed or not shown, 1 leaks or recognisable (vet, filters: a finding; doctor: a problem),"
    " 2 bad input, 3 incomplete or not tested, 70 a defect (its traceback is written to a file, or shown with"
    " FEDSPILL_TRACEBACK=1), 130 interrupted, 141 nobody reads the output."
)
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
    """Attack four scenes on embedded photographs and say what leaked (under a minute)."""
    from fedspill.cli.demo import run_demo
    from fedspill.cli.progress import TerminalListener

    folder, console = out or Path("fedspill-demo"), Console()
    # one console for bars and words, or the two draw over each other
    with TerminalListener(console if console.is_terminal else _console()) as listener:
        run_demo(folder, listener, device, fresh, console)
    console.print(f"\nOpen {folder / 'index.html'} to see what was rebuilt.", markup=False, style="bold")


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
        str | None, typer.Option("--budget", help="Time for the whole audit: 90s, 5m, 1h or none; 10m if not set.")
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
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings, and an audit that is incomplete or tested nothing, fail.")
    ] = False,
    fresh: Fresh = False,
    summary: Summary = None,
) -> None:
    """Attack the updates of a planned federation and judge what leaked.

    Exit code: 0 the policy is kept, 1 it is broken (by default: leaks or recognisable), 2 bad input, 3 incomplete or
    not tested, so that nothing can be concluded; with --strict 3 becomes 1, as do warnings.
    """
    began = time.monotonic()  # importing PyTorch is of the budget
    headline = early.headline_of(summary, as_json=as_json)
    early.check_device(device)
    extra = [f'audit.{key}="{given}"' for key, given in (("budget", budget), ("quality", quality)) if given]
    extra += [] if at_once is None else [f"audit.at_once={at_once}"]
    extra += ["policy.strict=true"] if strict else []
    table = early.plan_table(plan, [*(settings or []), *extra])
    from fedspill.plan.file import parse_plan

    read = parse_plan(table)
    from fedspill.cli.audit import audit_plan

    folder = out or Path(f"fedspill-{plan.stem}")
    kept = {"as_json": as_json, "redact": redact, "fresh": fresh}
    raise typer.Exit(audit_plan(read, folder, device, headline=headline, began=began, **kept))


app.command(
    name="advise",
    epilog="Examples:  fedspill advise plan.toml  |  fedspill advise plan.toml --budget 10m --seeds 5",
)(advise_command)
app.add_typer(sweep_app)
app.add_typer(train_app)
app.command(
    name="attack",
    epilog="Example:  fedspill attack --model my_package.nets:make --weights global.safetensors"
    " --update update.safetensors --kind gradient --shape 3x32x32 --num-examples 1",
)(capture_command)
app.command(
    name="vet",
    epilog="Examples:  fedspill vet --model cnn --weights received.safetensors  |  fedspill vet received.safetensors"
    " --reference my_package.nets:make --previous last_round.safetensors --summary md",
)(vet_command)
app.command(name="filters", epilog=FILTERS_EPILOG)(filters_command)
app.command(
    name="rank",
    epilog="Examples:  fedspill rank lenet  |  fedspill rank resnet18 --shape 3x32x32  |"
    "  fedspill rank my_package.nets:make --shape 1x28x28 --json",
)(rank_command)

app.command(
    name="bounds",
    epilog="Examples:  fedspill bounds plan.toml  |  fedspill bounds plan.toml --set defences.0.epsilon=1  |"
    "  fedspill bounds plan.toml --spread 0.2 --json",
)(bounds_command)


@app.command(
    name="list",
    epilog="Examples:  fedspill list attacks  |  fedspill list attacks inverting_gradients  |  fedspill list models",
)
def list_(
    what: Annotated[
        Literal["attacks", "tamperings", "defences", "checks", "models", "data"],
        typer.Argument(help="attacks, tamperings, defences, checks, models or data."),
    ],
    name: Annotated[str | None, typer.Argument(help="One of them, for all that there is to say of it.")] = None,
) -> None:
    """What there is to choose from; attacks by what the server must be willing to do."""
    from fedspill.cli import listing

    listing.show(what, name, Console())


@app.command()
def doctor() -> None:
    """Is this machine fit to run an audit, and what is missing for more?"""
    from fedspill.cli.doctor import examine

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
    summary: Summary = None,
) -> None:
    """Write the views of a finished audit again, and show its summary."""
    headline = early.headline_of(summary)
    early.check_report(folder)
    from fedspill.cli.audit import show_again

    show_again(folder, redact, headline)


def _warn(message: Warning | str, category: type[Warning], *where: object) -> None:
    """In one line, where Python shows the line of code that warned."""
    _console().print(f"fedspill: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """The command's entry: errors that a user can mend are one line on stderr and exit code 2; see `exits`."""
    sys.path.insert(0, "")  # the user's own package.module:factory lies in the current folder
    warnings.showwarning = _warn
    sys.exit(exit_code_of(partial(app, standalone_mode=False)))
