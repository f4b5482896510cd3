"""`matching cost`: seconds per iteration and peak memory of both tools.

Tools alternate (A B A B) in one process; seconds per iteration are the median over blocks, each the mean of a block's
iterations after a few that are not counted. `setup` is all that the first block took before its counted iterations,
beyond their price: it holds what a tool does once. Peak memory is the median of fresh processes with a few iterations
of one tool each; on CUDA it is that of tensors.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import records
from benchmarks.common.clock import Probe, Ticks, memory_now, memory_peak
from benchmarks.matching.ours import Preset, fedspill_run, presets
from benchmarks.matching.world import COST, FIRST, World, world

PEER = "breaching"
FEW = 5
"""Iterations of a process that tells its memory."""

Runner = Callable[[Probe], None]


def runner(side: Preset | None, given: World, iterations: int) -> Runner:
    """So many iterations of one start; None is the peer, which is imported only where it runs."""
    if side is not None:
        attack = side.of(steps=iterations, restarts=1).attack
        return lambda probe: fedspill_run(given, attack, probe, 0)
    from benchmarks.matching.peer import peer_run

    return lambda probe: peer_run(given, iterations, probe, 0)


def the_world(case: str, args: argparse.Namespace) -> World:
    """Seed 0; the time of an iteration does not depend on images or weights."""
    return world(COST[case], tuple(range(FIRST, FIRST + COST[case].count)), 0, args.device)


def worker(args: argparse.Namespace) -> None:
    """One tool alone in this process; prints its memory before the attack and at most."""
    name, case = args.worker
    given = the_world(case, args)
    side = None if name == PEER else presets(name, args.set)[0]
    run = runner(side, given, FEW)
    before = memory_now(given.device)
    run(Probe())
    print(json.dumps([before, memory_peak(given.device)]))


def memory(name: str, case: str, args: argparse.Namespace) -> list[float]:
    """MB before the attack and at most, of the middle one of some fresh processes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.matching", "cost", "--worker", name, case]
    command += ["--threads", str(args.threads), "--device", args.device]
    command += [f"--set={change}" for change in args.set]
    found = list[list[float]]()
    for _ in range(args.processes):
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found.append(json.loads(out.splitlines()[-1]))
    return sorted(found, key=lambda pair: pair[1])[len(found) // 2] if found else []


def blocks(runs: dict[str, Runner], device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds per iteration of every block, and of the first block's setup."""
    each = {name: list[float]() for name in runs}
    setup = dict[str, float]()
    for _ in range(args.repeats):
        for name, run in runs.items():
            ticks = Ticks(device, args.warmup, args.iterations - 1)
            run(ticks)
            gc.collect()
            seconds, rest = ticks.result()
            each[name].append(seconds)
            setup.setdefault(name, rest)
    return {name: {"seconds": each[name], "setup": setup[name]} for name in runs}


def measure(case: str, args: argparse.Namespace) -> dict[str, Any]:
    """All sides of one case."""
    chosen, given = presets(args.preset, args.set), the_world(case, args)
    runs = {PEER: runner(None, given, args.iterations)} if PEER in args.tools else {}
    runs |= {p.name: runner(p, given, args.iterations) for p in chosen if "fedspill" in args.tools}
    found = blocks(runs, given.device, args)
    names = {p.name: p.name.partition("+")[0] for p in chosen}
    for name, row in found.items():
        row["memory"] = memory(names.get(name, name), case, args)
    return found


def run(args: argparse.Namespace) -> None:
    """Measures the cases that are asked for, each into its own file, and prints the table of all that there are."""
    if args.worker:
        return worker(args)
    for case in args.cases:
        path = records.folder(args) / f"cost-{case}.json"
        sides = measure(case, args)
        block = {k: getattr(args, k) for k in ("iterations", "warmup", "repeats", "processes")}
        records.write(path, {"case": case, "block": block, "conditions": records.conditions(args), "sides": sides})
        print(table([path]), flush=True)


def table(paths: list[Path]) -> str:
    """Markdown; ratios are fedspill divided by the peer."""
    heads = ["case", "tool", "s / iteration", "ratio", "peak MB", "ratio", "above start MB", "ratio"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|" + "---:|" * 6]
    for record in map(records.read, paths):
        sides = record["sides"]
        for name, row in sides.items():
            peer = sides.get(PEER) if name != PEER else None
            lines.append(f"| {record['case']} | {name} | " + " | ".join(cells(row, peer)) + " |")
    return "\n".join(lines) + "\n"


def cells(row: dict[str, Any], peer: dict[str, Any] | None) -> list[str]:
    """Numbers, each with its ratio to the peer's."""
    made = list[str]()
    for number in (_seconds, _peak, _above):
        own, other = number(row), None if peer is None else number(peer)
        made.append("" if own is None else f"{own:.4g}")
        made.append("" if own is None or not other else f"{own / other:.2f}")
    return made


def _seconds(row: dict[str, Any]) -> float | None:
    return statistics.median(row["seconds"])


def _peak(row: dict[str, Any]) -> float | None:
    return row["memory"][1] if row["memory"] else None


def _above(row: dict[str, Any]) -> float | None:
    return row["memory"][1] - row["memory"][0] if row["memory"] else None
