"""Curves of gradient matching that were recorded, with the time of their iterations."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import records
from benchmarks.matching.times import Timed
from benchmarks.matching.world import COST_OF
from fedspill.core.errors import BadInput

CLOCKS = ("quiet", "wall", "cpu")


@dataclass(frozen=True)
class Kept:
    """A record of a curve."""

    tool: str
    key: tuple[str, int, int]
    timed: Timed


def load(folder: Path, clock: str) -> list[Kept]:
    """All curves of a folder.

    Raises:
        BadInput: there is none, or no cost to time one with.
    """
    paths = sorted(folder.glob("curve-*.json"))
    if not paths:
        raise BadInput(f"no curve lies in {folder}; `matching curves` records some")
    found = [records.read(path) for path in paths]
    costs = {case: _costs(folder, case) for case in {r["case"] for r in found}} if clock == "quiet" else {}
    return [Kept(r["tool"], (r["case"], r["image"], r["seed"]), timed(r, clock, costs)) for r in found]


def _costs(folder: Path, case: str) -> dict[str, Any]:
    path = folder / f"cost-{COST_OF.get(case, case)}.json"
    if not path.is_file():
        raise BadInput(f"{path} is lacking: `matching cost --cases {COST_OF.get(case, case)}`, or --clock wall")
    return records.read(path)["sides"]


def timed(record: dict[str, Any], clock: str, costs: dict[str, dict[str, Any]]) -> Timed:
    """A curve on one clock.

    Raises:
        BadInput: its tool is not among the costs of its case.
    """
    points, tool = record["points"], record["tool"]
    if clock == "quiet" and record.get("settings", {}).get("analytic"):
        clock = "cpu"
    if clock != "quiet":
        return Timed(tuple(points["cpu_seconds" if clock == "cpu" else "seconds"]), tuple(points["psnr"]))
    sides = costs[record["case"]]
    # Changed fields leave the price of an iteration as it is, or else the changed preset has a price of its own.
    side = sides.get(tool) or sides.get(tool.partition("+")[0])
    if side is None:
        raise BadInput(f"the cost of {tool} on {record['case']} is lacking: `matching cost --preset ...`")
    each = statistics.median(side["seconds"])
    return Timed(tuple(side["setup"] + k * each for k in points["iteration"]), tuple(points["psnr"]))
