"""`fedspill advise PLAN.toml`."""

import math
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedspill.cli import early
from fedspill.core.errors import BadInput


def advise_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan; see docs/advice.md.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the plan; may be repeated."),
    ] = None,
    budget: Annotated[str, typer.Option("--budget", help="Time for all measurements: 90s, 5m, 1h.")] = "3m",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, metavar="N", help="Fresh seeds by which a change is confirmed.")
    ] = 3,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the advice as JSON.")] = False,
) -> None:
    """The smallest changes of a plan that stop what leaks, found by measuring.

    Run it again after a kill: with the same budget it measures nothing twice.

    Exit code: 0 changes were found, or nothing leaks; 2 bad input; 3 none was
    found within the budget, or the plan as it is was not tested.
    """
    early.check_device(device)
    table = early.plan_table(plan, settings)
    from fedspill.advising.whole import advise_plan
    from fedspill.cli.advise.display import TerminalWatcher
    from fedspill.core.tensor_files import write_whole
    from fedspill.plan.sections import parse_seconds
    from fedspill.rendering.advising.table import show

    seconds, folder = parse_seconds(budget), out or Path(f"fedspill-advice-{plan.stem}")
    if seconds == math.inf:
        raise BadInput(f"--budget {budget!r}: a search needs an end; write for example 90s, 5m or 1h")
    with TerminalWatcher(Console(stderr=True)) as watcher:
        advice = advise_plan(table, folder, budget=seconds, seeds=seeds, device=device, watcher=watcher)
    written = folder / "advice.json"
    write_whole(written, advice.model_dump_json(indent=1))
    if as_json:
        typer.echo(advice.model_dump_json(indent=1))
    else:
        console = Console()
        show(advice, console)
        console.print(f"Wrote {written}", markup=False, highlight=False, soft_wrap=True, style="bold")
    raise typer.Exit(advice.exit_code)
