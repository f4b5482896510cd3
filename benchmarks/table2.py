"""Table 2 of Inverting Gradients (federated averaging on the ConvNet) with the preset `strong`.

    python -m benchmarks.table2 run                               # width 16, resumable
    python -m benchmarks.table2 run --cells 5,1,1 --width 64 --steps 240 --groups 5
    python -m benchmarks.table2 table                             # what is recorded, as a Markdown table

A cell is E epochs on n images in mini-batches of B, local learning rate 1e-4, eval mode, labels granted and different
within an update, as in the paper. CIFAR-10 test images from number 9,000 on, which no setting was chosen on; update k
takes the first n images of different labels from 9,000 + 40 k on. PSNR is the mean over an update's images.
"""

import argparse
from collections.abc import Iterator
from statistics import fmean, stdev
from typing import Any, cast

import torch

from benchmarks.common import places, records
from benchmarks.common.clock import Stopwatch
from benchmarks.common.cpu_torchvision import DECLARED  # noqa: F401
from benchmarks.matching.world import FIRST, Case, world
from fedspill.attacks.inverting_gradients import CARD, InvertingGradients
from fedspill.core.local_training.update import FedAvg
from fedspill.core.rng import stream
from fedspill.core.settings import described, with_fields
from fedspill.scoring.metrics import PSNR
from fedspill.zoo import data

RESULTS = places.RESULTS / "table2"
APART = 40
LR = 1e-4
PAPER: dict[tuple[int, int, int], tuple[float, float]] = {
    (1, 4, 2): (16.92, 2.10),
    (1, 8, 2): (14.66, 1.12),
    (1, 8, 8): (16.49, 1.02),
    (5, 1, 1): (25.05, 3.28),
    (5, 8, 8): (16.58, 0.96),
}
"""Epochs, images, images per mini-batch; the paper's mean PSNR and its deviation over 100 updates, width 64."""
PAPER_RUNS = 100


def group(number: int, count: int) -> tuple[int, ...]:
    """Numbers of the test images of an update."""
    first = FIRST + APART * number
    labels = data.load("cifar10", split="test", indices=tuple(range(first, first + APART))).batch.labels.tolist()
    found = {label: i for i, label in reversed(list(enumerate(labels)))}
    return tuple(first + i for i in sorted(found.values())[:count])


def one(cell: tuple[int, int, int], width: int, attack: InvertingGradients, number: int) -> dict[str, Any]:
    """One attack: its PSNR in dB, for every image too, and its process time in seconds."""
    epochs, count, size = cell
    case = Case("convnet", count, training=FedAvg(epochs, size, LR), options={"width": width})
    given = world(case, group(number, count), 0, "cpu")
    clock = Stopwatch(given.device)
    clock.start()
    found = attack.reconstruct(given.update, given.knowledge(), stream(0, "table2", str(number)))
    with clock.stopped() as (_, cpu):
        each = PSNR()(found.inputs, given.private.inputs).tolist()
    return {
        "update": number,
        "psnr": fmean(each),
        "each": each,
        "cpu_seconds": cpu,
        "confidence": float(cast("torch.Tensor", found.confidence).min()),
    }


def run(args: argparse.Namespace) -> None:
    """Everything that is not recorded yet, update by update."""
    torch.set_num_threads(args.threads)
    attack = with_fields(cast("InvertingGradients", CARD.presets["strong"]), steps=args.steps)
    for number in range(args.groups):
        for cell in args.cells:
            path = RESULTS / f"{'-'.join(map(str, cell))}-width{args.width}-strong{args.steps}.json"
            kept: dict[str, Any] = records.read(path) if path.is_file() else {"runs": []}
            if kept.get("settings") != described(attack):
                kept = {
                    "settings": described(attack),
                    "cell": cell,
                    "width": args.width,
                    "steps": args.steps,
                    "runs": [],
                }
            if any(r["update"] == number for r in kept["runs"]):
                continue
            kept["runs"].append(found := one(cell, args.width, attack, number))
            records.write(path, {**kept, "conditions": records.conditions(args)})
            print(f"{cell} width {args.width}: {found['psnr']:.2f} dB, {found['cpu_seconds']:.0f} s", flush=True)


def lines() -> Iterator[str]:
    """Of the table."""
    yield "| E, n, B | paper, dB (width 64, 4,800 iterations, n = 100) | width | iterations | updates | dB | CPU s |"
    yield "|---|---|---:|---:|---:|---|---:|"
    found = [records.read(path) for path in sorted(RESULTS.glob("*.json"))]
    for kept in sorted(found, key=lambda k: (k["cell"], k["width"], k["steps"])):
        mean, deviation = PAPER[cast("tuple[int, int, int]", tuple(kept["cell"]))]
        psnr = [r["psnr"] for r in kept["runs"]]
        error = f" ± {stdev(psnr) / len(psnr) ** 0.5:.2f}" if len(psnr) > 1 else ""
        yield (
            f"| {', '.join(map(str, kept['cell']))} | {mean:.2f} ± {deviation / PAPER_RUNS**0.5:.2f} | {kept['width']}"
            f" | {kept['steps']} | {len(psnr)} | {fmean(psnr):.2f}{error}"
            f" | {fmean(r['cpu_seconds'] for r in kept['runs']):.0f} |"
        )


def _cell(text: str) -> tuple[int, int, int]:
    epochs, count, size = (int(part) for part in text.split(","))
    if (epochs, count, size) not in PAPER:
        raise ValueError(text)
    return epochs, count, size


def main() -> None:
    """The command line."""
    records.run_or_table("table2", __doc__, _options, run, lines)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cells", nargs="+", type=_cell, default=list(PAPER), metavar="E,n,B")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--groups", type=int, default=5, help="updates of each cell")


if __name__ == "__main__":
    main()
