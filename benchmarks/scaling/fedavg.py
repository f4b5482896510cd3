"""`scaling fedavg`: PSNR of an attack on one image after 1 and after many local steps, one file per run.

An untrained ConvNet of width 16, local steps of 1e-4 on the one image, the same number of iterations for all: by the
hyperparameters of Inverting Gradients for FedAvg (step 1, total variation 1e-4; appendix C, table 5), or with
`--preset strong`, which matches the steps as one gradient. Inverting Gradients has 19.77 dB after 1 step and 19.39 dB
after 100, with a ConvNet of width 64 and 4,800 iterations. A run that was killed is made again; one that is on disk
with the same settings is not.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks.common import records
from benchmarks.matching.curves import Task, record
from benchmarks.matching.ours import presets
from benchmarks.matching.world import Case, world
from benchmarks.scaling.records import folder
from fedspill.core.local_training.update import FedAvg

PRESET = "paper_fedavg_5_1_1"
LOCAL_LR = 1e-4
WIDTH = 16


def case_of(steps: int) -> Case:
    """So many local steps on one image."""
    return Case("convnet", training=FedAvg(epochs=steps, lr=LOCAL_LR), options={"width": WIDTH})


def run(args: argparse.Namespace) -> None:
    """All runs that are missing, then the table of all that there are."""
    preset = presets(args.preset, [f"steps={args.iterations}"])[0]
    for image in args.images:
        for steps in args.steps:
            given = world(case_of(steps), (image,), 0, args.device)
            record(Task(f"fedavg{steps}", image, 0, preset, args.iterations), given, folder(args), args)
    print(table(folder(args)))


def kept(at: Path) -> dict[tuple[str, int, int], list[dict[str, Any]]]:
    """The records by preset, iterations and local steps."""
    found = dict[tuple[str, int, int], list[dict[str, Any]]]()
    for path in sorted(at.glob("curve-fedavg*.json")):
        one = records.read(path)
        key = (one["tool"].partition("+")[0], one["settings"]["steps"], int(one["case"].removeprefix("fedavg")))
        found.setdefault(key, []).append(one)
    return dict(sorted(found.items()))


def table(at: Path) -> str:
    """Markdown; the seconds are of processors, since others may have used the machine."""
    lines = [
        "| preset | local steps | iterations | images | PSNR, dB | mean | CPU s / iteration |",
        "|---|---:|---:|---|---|---:|---:|",
    ]
    for (preset, iterations, steps), runs in kept(at).items():
        images, psnr = (", ".join(map(str, v)) for v in ([r["image"] for r in runs], [last(r, "psnr") for r in runs]))
        mean = statistics.mean(last(r, "psnr") for r in runs)
        each = statistics.median(last(r, "cpu_seconds") for r in runs) / iterations
        lines.append(f"| {preset} | {steps} | {iterations} | {images} | {psnr} | {mean:.2f} | {each:.3f} |")
    return "\n".join(lines) + "\n"


def last(run: dict[str, Any], column: str) -> float:
    """Of what the attack returned."""
    return run["points"][column][-1]
