"""`scaling cost`: seconds and peak memory of one evaluation of the matching objective with its gradient.

Every point is measured in a process of its own: one evaluation to warm up, then some that are counted, of which the
median is kept. On one thread of a processor the seconds are those of the processor, so that what else the machine does
matters less. Memory is the peak of the process, on CUDA of tensors, less what was held before the first evaluation.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.common import records
from benchmarks.common.clock import memory_now, memory_peak, synchronise
from benchmarks.scaling.cases import LINES
from benchmarks.scaling.records import folder

FEWEST, MOST = 3, 50
"""Counted iterations of a point."""


def clock(args: argparse.Namespace) -> Callable[[], float]:
    """Of the processor where one thread does all."""
    return time.process_time if args.device == "cpu" and args.threads == 1 else time.perf_counter


def worker(args: argparse.Namespace) -> None:
    """Measures one point and prints it."""
    line, x = args.worker
    matching, z, labels = LINES[line].points[int(x)].matching(args.device)
    device = matching.model.like.device
    before, seconds, now = memory_now(device), list[float](), clock(args)
    while len(seconds) <= FEWEST or (sum(seconds[1:]) < args.seconds and len(seconds) <= MOST):
        synchronise(device)
        begun = now()
        matching.value_and_gradients(z, labels)
        synchronise(device)
        seconds.append(now() - begun)
    print(json.dumps({"first": seconds[0], "seconds": seconds[1:], "memory": [before, memory_peak(device)]}))


def measure(line: str, x: int, args: argparse.Namespace) -> dict[str, Any]:
    """One point, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scaling", "cost", "--worker", line, str(x)]
    command += ["--threads", str(args.threads), "--device", args.device, "--seconds", str(args.seconds)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = json.loads(out.splitlines()[-1])
    before, peak = found["memory"]
    seconds = [round(s, 6) for s in found["seconds"]]
    return {
        "first": round(found["first"], 6),
        "median": statistics.median(seconds),
        "seconds": seconds,
        "start_mb": round(before, 1),
        "peak_mb": round(peak, 1),
    }


def run(args: argparse.Namespace) -> None:
    """Measures the points that are missing, each into its own file."""
    if args.worker:
        return worker(args)
    for line in args.lines:
        for x, point in list(LINES[line].points.items())[: args.most]:
            settings = {"line": line, "x": x, "point": asdict(point), "seconds": args.seconds, "threads": args.threads}
            path = folder(args) / f"cost-{line}-{x}.json"
            if records.is_done(path, settings, redo=args.redo):
                continue
            found, told = measure(line, x, args), {**records.conditions(args), "clock": clock(args).__name__}
            records.write(path, {"settings": settings, "conditions": told, "found": found})
            print(f"{path.stem}: {found['median']:.4f} s, {found['peak_mb'] - found['start_mb']:.0f} MB", flush=True)
