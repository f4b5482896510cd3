"""What each search gives per second on an honest server's update, by kind of network, examples and protocol.

    python -m benchmarks.gains run --out benchmarks/results/gains --workers 2
    python -m benchmarks.gains table --out benchmarks/results/gains
    python -m benchmarks.gains pairs --best benchmarks/results/gains --out benchmarks/results/gains/pairs --workers 2

One attack alone, or `standard` of all, gets the same budget on the same update: the worst example's PSNR decides. The
order of the searches in `standard` (auditing/scheduling/shares.py) rests on the table. `pairs` runs `standard` and the
attack that was best alone side by side, so that both have the same share of the machine. CIFAR-10 under FEDSPILL_DATA,
test images from 9000 on, one thread a run. Records are kept one by one; what is there is not run again.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import fedspill
from benchmarks.budgets import toml
from fedspill.core.tensor_files import write_whole
from fedspill.report.store import read_report
from fedspill.report.trial import Trial

SEARCHES = ("inverting_gradients:strong", "idlg:paper", "dlg:paper", "nex:strong")
FIRST_IMAGE = 9000


@dataclass(frozen=True)
class Setting:
    """An honest server's update of an untrained network.

    Attributes:
        kind: of network, as the order of searches tells them apart.
        steps: local steps of FedAvg; None is one gradient.
    """

    kind: str
    model: str
    examples: int
    steps: int | None = None

    def table(self, attack: str, seed: int) -> dict[str, Any]:
        """As a plan."""
        client: dict[str, Any] = {"num_examples": self.examples}
        if self.steps is not None:
            client |= {"protocol": "fedavg", "lr": 0.01, "minibatch_size": self.examples // self.steps}
        first = FIRST_IMAGE + 100 * seed
        return {
            "audit": {"attacks": [attack], "seeds": [seed]},
            "model": {"name": self.model, "normalise": "data"},
            "data": {"name": "cifar10", "indices": f"{first}:{first + self.examples}"},
            "client": client,
        }

    def __str__(self) -> str:
        training = "one gradient" if self.steps is None else f"{self.steps} local steps"
        return f"{self.model}, n = {self.examples}, {training}"


SETTINGS = [
    Setting("fully connected", "mlp", 8),
    Setting("fully connected", "mlp", 4, 2),
    Setting("convolutional", "lenet", 1),
    Setting("convolutional", "lenet", 8),
    Setting("convolutional", "lenet", 8, 4),
    Setting("convolutional", "convnet", 1),
    Setting("convolutional", "convnet", 8),
    Setting("convolutional", "convnet", 4, 2),
    Setting("residual", "resnet20_4", 1),
    Setting("residual", "resnet20_4", 4),
    Setting("residual", "resnet18", 8),
    Setting("residual", "resnet18", 4, 2),
]


@dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        psnr: in dB, of every example; empty where nothing came out.
        seconds: of wall time, the start of Python included.
        said: why nothing came out.
    """

    setting: str
    kind: str
    attack: str
    budget: int
    seed: int
    psnr: list[float]
    seconds: float
    iterations: int
    said: str
    versions: str


def run(setting: Setting, attack: str, budget: int, seed: int) -> Record:
    """One audit in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        plan, out = Path(name) / "plan.toml", Path(name) / "out"
        plan.write_text(toml(setting.table(attack, seed)))
        command = [sys.executable, "-m", "fedspill", "audit", str(plan), "--out", str(out), "--device", "cpu"]
        began = time.monotonic()
        done = subprocess.run(
            [*command, "--budget", f"{budget}s"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        seconds = time.monotonic() - began
        trials = read_report(out)[0].trials if done.returncode in (0, 1, 3) else []
    best = max(trials, key=worst, default=None)
    said = done.stderr.strip().splitlines()[-1][:200] if best is None else best.skipped or ""
    psnr = [] if best is None else psnr_of(best)
    versions = f"fedspill {fedspill.__version__}"
    iterations = 0 if best is None else best.iterations
    return Record(str(setting), setting.kind, attack, budget, seed, psnr, seconds, iterations, said, versions)


def worst(trial: Trial) -> float:
    """PSNR of the example that came out best: the one that a defender must answer for."""
    return max(psnr_of(trial), default=-1.0)


def psnr_of(trial: Trial) -> list[float]:
    """In dB, of every example; empty of a trial that was skipped."""
    values = next((score.values for score in trial.scores if score.metric == "psnr"), [])
    return [value for value in values if value is not None]


def wanted(budgets: Sequence[int], seeds: Sequence[int], attacks: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Every run, all of the first seed before any of the second."""
    for seed in seeds:
        for budget in budgets:
            yield from ((setting, attack, budget, seed) for setting in SETTINGS for attack in attacks)


def paired(best: Path, budget: int, seeds: Sequence[int]) -> Iterator[tuple[Any, ...]]:
    """`standard` and the attack that did best alone, setting by setting."""
    alone = [r for r in records(best) if r.budget == budget and r.attack != "standard"]
    for seed in seeds:
        for setting in SETTINGS:
            here = [r for r in alone if r.setting == str(setting)]
            strongest = max(here, key=lambda r: max(r.psnr, default=-1.0))
            yield from ((setting, attack, budget, seed) for attack in ("standard", strongest.attack))


def pairs_table(kept: list[Record]) -> str:
    """Best example's PSNR of `standard` and of the best single attack on the same update, and the difference."""
    by = {(r.setting, r.seed, r.attack == "standard"): r for r in kept}
    lines = [
        "| setting | seed | best single | dB | `standard`, dB | difference | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting, seed, _ in sorted((key for key in by if key[2]), key=lambda key: (key[1], key[0])):
        whole, single = by[setting, seed, True], by.get((setting, seed, False))
        if single is None:
            continue
        ours, theirs = max(whole.psnr, default=math.nan), max(single.psnr, default=math.nan)
        seconds = f"{single.seconds:.0f}, {whole.seconds:.0f}"
        lines.append(
            f"| {setting} | {seed} | {single.attack} | {theirs:.1f} | {ours:.1f} | {ours - theirs:+.1f} | {seconds} |"
        )
    return "\n".join(lines)


def file(out: Path, setting: Setting, attack: str, budget: int, seed: int) -> Path:
    """Where a run is kept."""
    plain = f"{setting}.{attack}.{budget}s.{seed}".replace(" ", "").replace(",", "-").replace(":", "_")
    return out / f"{plain}.json"


def records(out: Path) -> list[Record]:
    """All that are kept."""
    return [Record(**json.loads(path.read_text())) for path in sorted(out.glob("*.json"))]


def table(kept: list[Record]) -> str:
    """Best example's PSNR by setting, attack and budget, the mean over seeds, with the seeds' number."""
    by = defaultdict[tuple[str, str, int], list[float]](list)
    for one in kept:
        by[one.setting, one.attack, one.budget].append(max(one.psnr) if one.psnr else float("nan"))
    columns = sorted({(a, b) for _, a, b in by}, key=lambda c: (c[1], c[0]))
    lines = ["| setting | " + " | ".join(f"{a}, {b} s" for a, b in columns) + " |", "|---" * (1 + len(columns)) + "|"]
    for setting in map(str, SETTINGS):
        cells = [by.get((setting, *column)) for column in columns]
        lines.append(f"| {setting} | " + " | ".join("" if not c else f"{mean(c):.1f} ({len(c)})" for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs what is not kept yet, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "table", "pairs"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--best", type=Path, help="records of single attacks")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--budgets", type=int, nargs="+", default=[120])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--attacks", nargs="+", default=[*SEARCHES, "standard"])
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what != "table":
        asked_for = (
            wanted(given.budgets, given.seeds, given.attacks)
            if given.what == "run"
            else paired(given.best, given.budgets[0], given.seeds)
        )
        missing = [w for w in asked_for if not file(given.out, *w).is_file()]
        with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
            for asked, record in zip(missing, pool.map(lambda w: run(*w), missing), strict=True):
                write_whole(file(given.out, *asked), json.dumps(dataclasses.asdict(record)) + "\n")
                print(record.setting, record.attack, [round(p, 1) for p in record.psnr], record.said, flush=True)
    print((pairs_table if given.what == "pairs" else table)(records(given.out)))


if __name__ == "__main__":
    main()
