"""`fedspill sweep PLAN.toml` and `fedspill sweep merge DIR...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
import typer
from rich.console import Console
from typer.core import TyperGroup

from fedspill.cli import early
from fedspill.core.errors import BadInput
from fedspill.plan.tables import table_of

if TYPE_CHECKING:
    from fedspill.sweeping.ledger import Counts

RUN, MERGE = "run", "merge"
INCOMPLETE = 3


class PlanOrMerge(TyperGroup):
    """Takes what is not `merge` for a plan and its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the first command's name in front, which nobody need type."""
        return super().parse_args(ctx, args if args[:1] in ([MERGE], [RUN]) else [RUN, *args])


app = typer.Typer(name="sweep", cls=PlanOrMerge, help="Run an audit for every combination of a plan's keys.")


@app.command(
    RUN,
    epilog="Examples:  fedspill sweep plans/sweep.toml  |  fedspill sweep plan.toml --workers 4 --out grid  |"
    "  fedspill sweep plan.toml --shard 3/8  |  fedspill sweep merge fedspill-sweep-plan-*of8 --out all",
)
def run(
    plan: Annotated[
        Path, typer.Argument(metavar="PLAN.toml", help="A plan with a table of keys to vary; docs/sweeps.md.")
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the plan; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results.", show_default=False)] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="This machine's processes, or a Ray cluster.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, metavar="N", help="Processes of one thread; as many as cores and memory allow; 0: none."
        ),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", metavar="SIZE", help="What one trial takes, such as 2GB, if known.")
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus", min=0, metavar="X", help="With Ray: share of a GPU that a trial asks for.")
    ] = 0.0,
    address: Annotated[
        str | None, typer.Option("--address", help="With Ray: the cluster; else it starts one here.")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Run this part of N, for machines that share nothing.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Run again the trials that failed.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the trials that --out holds.")] = False,
) -> None:
    """Run an audit for every combination of some of a plan's keys, and compare them.

    Run it again after a kill, or at the same time in other terminals: each trial is run once.

    Exit code: 0 every trial is done, or refused for a reason that its row says; 2 bad input; 3 some failed.
    """
    early.check_device(device)
    table = _checked(table_of(plan, settings))
    from fedspill.cli.sweep.choices import chosen_engine
    from fedspill.cli.sweep.display import TerminalFollower
    from fedspill.sweeping.driving import parse_shard
    from fedspill.sweeping.whole import run_sweep

    part = None if shard is None else parse_shard(shard)
    folder = out or Path(f"fedspill-sweep-{plan.stem}" + ("" if part is None else f"-{part.number}of{part.of}"))
    make = chosen_engine(engine, device, workers=workers, memory=memory, gpus=gpus, address=address)
    with TerminalFollower(Console(stderr=True)) as follower:
        swept = run_sweep(table, folder, make, shard=part, retry=retry, fresh=fresh, follower=follower)
    others = f"; {swept.others:,} of other plans or shards stay in the folder" if swept.others else ""
    _tell(swept.counts, others, swept.written)
    raise typer.Exit(_exit_code(swept.counts))


@app.command(MERGE, epilog="Example:  fedspill sweep merge part-1of8 part-2of8 --out all")
def merge_folders(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Output folders of sweeps, or of shards.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for all of it; may hold trials already.")],
) -> None:
    """Make one folder of those of several shards or machines; these are not changed."""
    from fedspill.sweeping.merging import merge

    merged = merge(folders, out)
    if merged.differing:
        Console(stderr=True).print(
            f"fedspill: {merged.differing:,} trials have different results in two folders; the first folder's stay",
            style="yellow",
        )
    _tell(merged.counts, "", merged.written)
    raise typer.Exit(_exit_code(merged.counts))


def _checked(table: dict[str, Any]) -> dict[str, Any]:
    """The table, if every combination names only what there is: a slip of the pen is told before anything is run."""
    from fedspill.sweeping.grid import points

    for point in points(table):
        if point.refused is None:
            early.check_names(point.table)
    return table


def _tell(counts: "Counts", others: str, written: list[Path]) -> None:
    console = Console()
    told = f"{counts.done:,} done, {counts.refused:,} refused, {counts.failed:,} failed"
    unfinished = counts.total - counts.ended
    told += f", {unfinished:,} not run yet" if unfinished else ""
    console.print(f"{counts.total:,} trials: {told}{others}", markup=False, highlight=False, soft_wrap=True)
    for path in written:
        console.print(f"Wrote {path}", markup=False, highlight=False, soft_wrap=True, style="bold")


def _exit_code(counts: "Counts") -> int:
    if not counts.total:
        raise BadInput("the folders hold no trial")
    return INCOMPLETE if counts.failed or counts.ended < counts.total else 0
