"""`fedspill vet`: reasons not to train on a model that a server sent."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

ALARM = 0.5
"""Severity from which the exit code is 1."""


def vet_command(
    model: Annotated[str, typer.Option(help="As in a plan: a network of the zoo, or package.module:factory.")],
    weights: Annotated[str, typer.Option(help="What the server sent: safetensors, a checkpoint, or .npz.")],
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input.")] = "3x32x32",
    num_classes: Annotated[int, typer.Option(min=1, help="Of a zoo or library model.")] = 10,
) -> None:
    """Look for weights that someone wrote by hand.

    Exit code: 0 nothing found, which is not evidence of safety; 1 a finding of severity 0.5 or more; 2 bad input.
    """
    from fedspill.cli.early import check_file

    check_file(weights)
    import fedspill
    from fedspill.cli.captured import image_shape
    from fedspill.zoo.models import build

    sent = build(model, input_shape=image_shape(shape), num_classes=num_classes, weights=weights)
    findings = fedspill.vet(sent)
    console = Console()
    if findings:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column("severity", justify="right")
        for heading in ("where", "why"):
            table.add_column(heading, overflow="fold")
        for f in findings:
            style = "red" if f.severity >= ALARM else ""
            table.add_row(f"{f.severity:.2f}", Text(f.where), Text(f.explanation), style=style)
        console.print(table)
    words = f"{len(findings)} findings" if len(findings) != 1 else "1 finding"
    console.print(f"{words} in {Path(weights).name} by {', '.join(fedspill.checks())}.", markup=False, style="bold")
    console.print("What these checks do not see is not safe for that.", style="yellow")
    raise typer.Exit(1 if any(f.severity >= ALARM for f in findings) else 0)
