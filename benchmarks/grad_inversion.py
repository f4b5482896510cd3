"""GradInversion beside Inverting Gradients on the same updates: with the clients' statistics, without, seeds alone.

CIFAR-10 test images from 9000 on (FEDSPILL_DATA), ResNet-20 of option A, one gradient of 4 or 8 images, labels granted;
as many iterations from as many starts for every attack. Settings were chosen on test images from 8000 on. PSNR with the
best assignment; seconds are those of one thread, process time. One record an update and attack; what is there is not
run again.

    python -m benchmarks.grad_inversion run --weights trained --examples 4
    python -m benchmarks.grad_inversion table
"""

import argparse
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import fedspill
from benchmarks.common import places
from benchmarks.common.records import conditions, is_done, read, run_or_table, write

RESULTS = places.RESULTS / "grad_inversion"
FIRST, APART = 9000, 100
GRANTS = ["labels", "num_examples", "local_training"]
STATISTICS = [*GRANTS, "bn_statistics"]
STRONG = {"name": "grad_inversion", "preset": "strong"}
ATTACKS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "inverting_gradients": ("Inverting Gradients", {"name": "inverting_gradients", "preset": "strong"}, GRANTS),
    "client": ("the clients' statistics", {**STRONG, "statistics": "client"}, STATISTICS),
    "client_mean": (
        "the same, the mean not registered",
        {**STRONG, "statistics": "client", "consensus": "mean"},
        STATISTICS,
    ),
    "client_alone": ("the same, every seed alone", {**STRONG, "statistics": "client", "consensus": "none"}, STATISTICS),
    "running": ("running statistics", {**STRONG, "statistics": "running"}, GRANTS),
    "none": ("no statistics", {**STRONG, "statistics": "none"}, GRANTS),
    "none_alone": ("no statistics, every seed alone", {**STRONG, "statistics": "none", "consensus": "none"}, GRANTS),
    "paper": ("preset `paper`, the clients' statistics", {"name": "grad_inversion", "preset": "paper"}, STATISTICS),
}
"""By name what a table calls it, its entry in a plan, and what the server is granted."""


def plan_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The audit of one update by one attack."""
    _, attack, knows = ATTACKS[settings["attack"]]
    starts = "restarts" if attack["name"] == "inverting_gradients" else "seeds"
    attack = {**attack, "steps": settings["steps"], starts: settings["seeds"]}
    n, update = settings["examples"], settings["update"]
    first = settings["first"] + APART * update
    return {
        "audit": {"attacks": [attack], "budget": "none", "metrics": ["psnr"], "seeds": [update]},
        "model": {
            "name": "resnet20",
            "weights": settings["weights"],
            "mode": settings["mode"],
            "seed": update,
        },
        "data": {"name": "cifar10", "indices": f"{first}:{first + n}"},
        "client": {"num_examples": n},
        "server": {"knows": knows},
    }


def asked(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The settings of every record."""
    for examples, update, attack in product(args.examples, args.updates, args.attacks or ATTACKS):
        same = {k: getattr(args, k) for k in ("weights", "mode", "steps", "seeds", "first")}
        yield {"attack": attack, "examples": examples, "update": update, **same}


def file_of(folder: Path, settings: dict[str, Any]) -> Path:
    """Where its record lies."""
    return folder / ("-".join(str(settings[k]) for k in ("weights", "mode", "examples", "update", "attack")) + ".json")


def run(args: argparse.Namespace) -> None:
    """Records what is not there yet."""
    torch.set_num_threads(args.threads)
    for settings in asked(args):
        file = file_of(args.out, settings)
        if not is_done(file, settings, redo=args.redo):
            began = time.process_time()
            trial = fedspill.audit(plan_of(settings)).report.trials[0]
            values = [round(v, 2) for s in trial.scores if s.metric == "psnr" for v in s.values]
            spent = round(time.process_time() - began, 1)
            write(file, {"conditions": conditions(args), "settings": settings, "psnr": values, "seconds": spent})
        print(file.stem, read(file)["psnr"], flush=True)


def lines(folder: Path) -> Iterator[str]:
    """Means over the images of all updates."""
    yield "| weights | mode | n | iterations, starts | attack | updates | mean PSNR, dB | lowest to highest | seconds |"
    yield "|---|---|---|---|---|---|---|---|---|"
    records = [read(file) for file in sorted(folder.glob("*.json"))]
    same = ("weights", "mode", "examples", "steps", "seeds")
    kinds = sorted({tuple(r["settings"][k] for k in same) for r in records}, key=str)
    for kind, (attack, (title, *_)) in product(kinds, ATTACKS.items()):
        kept = [r for r in records if (*(r["settings"][k] for k in same), r["settings"]["attack"]) == (*kind, attack)]
        if kept:
            values, (weights, mode, n, steps, seeds) = [v for r in kept for v in r["psnr"]], kind
            yield (
                f"| {weights} | {mode} | {n} | {steps}, {seeds} | {title} | {len(kept)} | {fmean(values):.1f} |"
                f" {min(values):.1f} to {max(values):.1f} | {fmean(r['seconds'] for r in kept):.0f} |"
            )


def options(parser: argparse.ArgumentParser) -> None:
    """Of this benchmark."""
    parser.add_argument("--weights", choices=("trained", "untrained"), default="trained")
    parser.add_argument("--mode", choices=("eval", "train"), default="eval")
    parser.add_argument("--examples", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--updates", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--attacks", nargs="+", choices=list(ATTACKS))
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=FIRST, help="test image at which the first update begins")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--redo", action="store_true", help="replace records of other settings")


if __name__ == "__main__":
    run_or_table("grad_inversion", __doc__, options, run, lambda: lines(RESULTS))
