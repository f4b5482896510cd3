"""`fedspill bounds`: what no attack beats on the updates of a plan, whatever was tried."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fedspill.cli.bounds.words import show


def bounds_command(
    plan: Annotated[Path, typer.Argument(metavar="PLAN.toml", help="The plan; its attacks are not run.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one key of the plan; may be repeated."),
    ] = None,
    spread: Annotated[float, typer.Option(help="Standard deviation of every pixel in the assumed prior.")] = 0.25,
    centre: Annotated[float, typer.Option(help="Mean of every pixel in the assumed prior.")] = 0.5,
    draws: Annotated[int, typer.Option(help="Batches drawn of it for the error floor.")] = 4,
    seconds: Annotated[float, typer.Option(help="Given to the singular values of the update's Jacobian.")] = 60.0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the bounds as JSON.")] = False,
) -> None:
    """What no attack beats on the updates of a plan: epsilon, reconstruction, error.

    Of the plan's defences: epsilon with its unit, and for priors 1/10, 1/1000
    and 1e-6 a ceiling on any attacker's success and on an image's PSNR. Under
    Gaussian noise: a floor on the mean squared error. Without a defence:
    whether the update determines the inputs near by.

    Exit code: 0, or 2 on bad input. A bound is not held against the policy.
    """
    from fedspill.cli import early

    early.check_device(device)
    table = early.plan_table(plan, settings or [])
    from fedspill.auditing.bounding.bounds import Assumed, plan_bounds
    from fedspill.plan.build import pick_device
    from fedspill.plan.file import parse_plan

    assumed = Assumed(centre, spread, draws)
    told = plan_bounds(parse_plan(table), pick_device(device), assumed, seconds)
    if as_json:
        sys.stdout.write(json.dumps(_plain(asdict(told)), indent=2) + "\n")
    else:
        show(told, Console())


def _plain(value: Any) -> Any:
    """Numbers that JSON has no word for are null; what they mean stands beside them."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
