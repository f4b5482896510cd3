"""Whether a budget is kept: wall time of `fedspill audit` over its budget, while another process keeps all cores busy.

    python -m benchmarks.budgets --out benchmarks/results/budgets.md

Twelve settings, from a LeNet to a ResNet-50 at 224 pixels, 1 to 128 images, one gradient and local training, honest
and malicious servers. The limit is 1.1 times the budget and 5 seconds, the start of Python and the report included.
CIFAR-10 is looked for under FEDSPILL_DATA; without it the settings of many images are left out.
"""

import argparse
import multiprocessing
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import fedspill
from fedspill.core.tensor_files import write_whole
from fedspill.plan.sections import parse_seconds
from fedspill.report.store import read_report

PARAMETERS, ARCHITECTURE = "malicious parameters", "malicious architecture"


@dataclass(frozen=True)
class Setting:
    """One audit by `standard`.

    Attributes:
        size: side of the pictures in pixels.
        steps: local steps of FedAvg; None is one gradient.
    """

    model: str
    size: int
    examples: int
    steps: int | None
    role: str
    budget: str
    data: str = "photos"

    def table(self) -> dict[str, Any]:
        """As a plan."""
        client: dict[str, Any] = {"num_examples": self.examples}
        if self.steps is not None:
            client |= {"protocol": "fedavg", "lr": 0.01, "minibatch_size": max(1, self.examples // self.steps)}
        data: dict[str, Any] = {"name": self.data, "indices": f"0:{self.examples}"}
        return {
            "audit": {"budget": self.budget},
            "model": {"name": self.model, "normalise": "data"},
            "data": data if self.data == "cifar10" else data | {"size": self.size},
            "client": client,
            "server": {"role": self.role},
        }

    def __str__(self) -> str:
        training = "one gradient" if self.steps is None else f"{self.steps} local steps"
        return f"{self.model} at {self.size}, n = {self.examples}, {training}, {self.role}"


HONEST = "honest-but-curious"
SETTINGS = [
    Setting("lenet", 32, 1, None, HONEST, "30s"),
    Setting("lenet", 32, 8, 4, HONEST, "30s"),
    Setting("mlp", 32, 64, None, ARCHITECTURE, "30s", "cifar10"),
    Setting("resnet18", 64, 1, None, HONEST, "30s"),
    Setting("resnet50", 224, 1, None, HONEST, "30s"),
    Setting("convnet", 32, 8, None, HONEST, "2m"),
    Setting("convnet", 32, 128, None, HONEST, "2m", "cifar10"),
    Setting("resnet20_4", 32, 4, 2, PARAMETERS, "2m"),
    Setting("resnet18", 64, 8, 4, ARCHITECTURE, "2m"),
    Setting("resnet50", 224, 8, None, HONEST, "2m"),
    Setting("resnet50", 224, 8, 4, ARCHITECTURE, "2m"),
    Setting("cnn", 32, 128, 4, HONEST, "10m", "cifar10"),
]


def busy() -> None:
    """Keeps all cores at work."""
    a = torch.rand(1500, 1500)
    while True:
        a = (a @ a).clamp_(0, 1)


def toml(table: dict[str, Any]) -> str:
    """A plan of strings and whole numbers."""
    return "\n".join(f"[{name}]\n" + "\n".join(f"{k} = {v!r}" for k, v in keys.items()) for name, keys in table.items())


def row(setting: Setting) -> str:
    """One line of the table."""
    budget = parse_seconds(setting.budget)
    with tempfile.TemporaryDirectory() as name:
        plan, out = Path(name) / "plan.toml", Path(name) / "out"
        plan.write_text(toml(setting.table()))
        command = [sys.executable, "-m", "fedspill", "audit", str(plan), "--out", str(out), "--device", "cpu"]
        began = time.monotonic()
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        wall = time.monotonic() - began
        if ran.returncode not in (0, 1, 3):
            return f"| {setting} | {setting.budget} | {wall:.0f} | exit {ran.returncode}: {ran.stderr[-200:]!r} |"
        report, _ = read_report(out)
    first = re.search(r"after ([\d.]+ (?:s|min))", ran.stderr)
    trials = [t for t in report.trials if t.skipped is None]
    ratios = [
        t.foreseen.seconds * t.iterations / t.seconds for t in trials if t.foreseen and t.iterations > 20 and t.seconds
    ]
    foreseen = "" if not ratios else f"{min(ratios):.2f} to {max(ratios):.2f}"
    best = max(report.verdict.by_role, key=lambda v: v.worst.value if v.worst else -1e9, default=None)
    said = "" if best is None or best.worst is None else f", {best.attack} {best.worst.value:.1f} {best.worst.unit}"
    over = (wall - 5) / budget
    return (
        f"| {setting} | {setting.budget} | {wall:.0f} | {over:.2f} | {first[1] if first else ''} | {foreseen} |"
        f" {report.verdict.name.value}{said} |"
    )


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the settings, from 0")
    parser.add_argument("--quiet", action="store_true", help="keep no other process busy")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    other = None if given.quiet else multiprocessing.get_context("spawn").Process(target=busy, daemon=True)
    if other is not None:
        other.start()
    lines = [
        f"`python -m benchmarks.budgets {shlex.join(sys.argv[1:])}`, fedspill {fedspill.__version__}, torch"
        f" {torch.__version__}, {os.cpu_count()} cores"
        f"{'' if given.quiet else ', all of them busy with another process'}, seed 0.",
        "",
        "| setting | budget | wall seconds | (wall - 5 s) / budget | first result after | foreseen / real seconds of an"
        " iteration | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, setting in enumerate(SETTINGS):
        if given.only is not None and number not in given.only:
            continue
        if setting.data == "cifar10" and "FEDSPILL_DATA" not in os.environ:
            continue
        lines.append(row(setting))
        print(lines[-1], flush=True)
        if given.out is not None:
            write_whole(given.out, "\n".join(lines) + "\n")
    if other is not None:
        other.terminate()


if __name__ == "__main__":
    main()
