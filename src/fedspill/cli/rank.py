"""`fedspill rank`: which layers of a network determine their input by one example's gradient."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedspill.rendering.ranks import reach, row

if TYPE_CHECKING:
    from fedspill.inversion.recursion.rank_analysis import LayerRank

CAVEAT = "One example in eval mode; what is left open here may be found by a search (inverting_gradients)."


def rank_command(
    model: Annotated[str, typer.Argument(help="A zoo name, torchvision:NAME, or your package.module:factory.")],
    shape: Annotated[str, typer.Option(help="Channels x height x width of one input.")] = "3x32x32",
    num_classes: Annotated[int, typer.Option(min=1, help="Of a zoo or library model.")] = 10,
    weights: Annotated[
        Path | None, typer.Option(help="safetensors, a checkpoint, or .npz; else the network is untrained.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the picture, and of untrained weights.", show_default=True)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Per layer: how much of its input one example's gradient determines.

    By R-GAP's rank analysis: the rank of the gradient of the layer's weight as equations for its input, alone and with
    what the layer puts out, against the number of the input's values, if all layers above are known. The recursion
    (attack rgap) goes back from the last layer as long as inputs are determined.

    Exit code: 0, 2 bad input.
    """
    from fedspill.cli.early import check_file

    if weights is not None:
        check_file(weights)
    import fedspill
    from fedspill.cli.captured import image_shape
    from fedspill.zoo.models import build

    built = build(
        model,
        input_shape=image_shape(shape),
        num_classes=num_classes,
        weights="untrained" if weights is None else weights,
        seed=seed,
    )
    found = fedspill.rank_analysis(built, seed=seed)
    if as_json:
        layers = [{**asdict(layer), "determined": layer.determined} for layer in found]
        sys.stdout.write(json.dumps({"model": model, "shape": shape, "layers": layers}, indent=2) + "\n")
    else:
        show(found, Console())


def show(found: "Sequence[LayerRank]", console: Console) -> None:
    """The table, and how far the recursion comes."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="fold")
    for heading in ("values", "gradient", "with outputs"):
        table.add_column(heading, justify="right")
    table.add_column("determined", overflow="fold")
    for told in map(row, found):
        style = "red" if told.reached else ""
        table.add_row(Text(told.layers), told.values, told.gradient, told.rank, Text(told.determined), style=style)
    console.print(table)
    console.print(reach(found), markup=False, style="bold")
    console.print(CAVEAT, markup=False, style="yellow")
