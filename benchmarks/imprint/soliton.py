"""Rows of an LT code beside the project's own groups of bins, at equal rows and on the same batches.

    python -m benchmarks.imprint.soliton ideal               # counting alone, no network
    python -m benchmarks.imprint.soliton measured            # CIFAR-10, gradients in float32; benchmarks/results
    python -m benchmarks.imprint.soliton measured --n 1024   # one size only; the records of the others stay

Conditions as in `benchmarks.imprint.images curve`, whose batches these are. CIFAR-10 lies under FEDSPILL_DATA. A cell
that is on record is not run again. Prints markdown.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.imprint.images import peeled
from benchmarks.imprint.run import run
from fedspill.core.rng import rand, stream
from fedspill.core.tensor_files import write_whole
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.imprint.soliton import Sorting, degrees
from fedspill.tamperings.robbing_the_fed import RobbingTheFed
from fedspill.zoo.data import load
from fedspill.zoo.models import build

RESULTS = Path(__file__).parent.parent / "results" / "soliton.json"
SHARES = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
BATCHES = {64: 4, 256: 2, 1024: 1}
SOLITONS: tuple[Sorting, ...] = ("ideal_soliton", "robust_soliton")
DRAWS = 20
HEAD = "| n | rows | " + " | ".join(f"{s:g}" for s in SHARES) + " |\n|---|---|" + "---|" * len(SHARES)


def tamperings(n: int, rows: int, groups: tuple[int, ...] = (1, 2, 3, 4)) -> dict[str, RobbingTheFed]:
    """What is compared: the two solitons with a function for each row, and d groups of bins."""
    coded = {
        sorting: RobbingTheFed(Bins(rows, ("random",), cutoffs="auto", sorting=sorting, expected=n), decode="peel")
        for sorting in SOLITONS
    }
    return coded | {f"d = {d}": peeled(d, rows) for d in groups}


def ideal() -> None:
    """Shares that an ideal decoder recovers: exactly d examples in a row, as in the code, and d in the mean."""
    print(HEAD)
    for n in BATCHES:
        for sorting in SOLITONS:
            for exact in (True, False):
                rng = stream(0, "ideal", sorting, n, exact)
                cells = [_ideal_share(sorting, n, round(s * n), rng, exact) for s in SHARES]
                name = f"{sorting}, {'exactly d examples' if exact else 'd in the mean'}"
                print(f"| {n} | {name} | " + " | ".join(f"{c:.2f}" for c in cells) + " |", flush=True)


def _ideal_share(sorting: Sorting, n: int, rows: int, rng: torch.Generator, exact: bool) -> float:
    total = 0.0
    for _ in range(DRAWS):
        degree, drawn = degrees(sorting, rows, n, rng)[:, None], rand((rows, n), rng, torch.zeros(()))
        within = drawn.argsort(1).argsort(1) < degree if exact else drawn < degree / n
        total += float(_peeled(within).double().mean())
    return total / DRAWS


def _peeled(within: Tensor) -> Tensor:
    """Which examples (n,) an ideal decoder recovers from rows (k, n)."""
    within, found = within.clone(), torch.zeros(within.shape[1], dtype=torch.bool)
    while bool((single := within[within.sum(1) == 1].any(0)).any()):
        found |= single
        within[:, single] = False
    return found


def measured(sizes: list[int], groups: tuple[int, ...]) -> None:
    """Exact shares (PSNR >= 60 dB)."""
    private = load("cifar10", split="test")
    public = load("cifar10", split="train", indices="0:3000").batch
    model = build("mlp", input_shape=(3, 32, 32), num_classes=10, mean=private.mean, std=private.std)
    records: dict[str, dict[str, float]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for n in sizes:
        for share in SHARES:
            for name, tampering in tamperings(n, round(share * n), groups).items():
                if (key := f"n={n}, {share:g} rows, {name}") in records:
                    continue
                start = time.process_time()
                found = [run(tampering, model, private.batch[n * b : n * b + n], public, b) for b in range(BATCHES[n])]
                each = n * BATCHES[n]
                records[key] = {
                    "exact": sum(f.exact for f in found) / each,
                    "predicted": sum(f.predicted for f in found) / each,
                    "sure_and_false": sum(f.false for f in found),
                    "processor_seconds": round(time.process_time() - start, 1),
                }
                write_whole(RESULTS, (json.dumps(records, indent=1) + "\n").encode())
                print(key, records[key], flush=True)
    table(records)


def table(records: dict[str, dict[str, float]]) -> None:
    """The records, exact over predicted by the measurement alone."""
    print(HEAD)
    for n in BATCHES:
        for name in tamperings(n, 8):
            found = [records.get(f"n={n}, {s:g} rows, {name}") for s in SHARES]
            if any(found):
                cells = ["–" if f is None else f"{f['exact']:.2f} ({f['predicted']:.2f})" for f in found]
                print(f"| {n} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=("ideal", "measured"))
    parser.add_argument("--n", type=int, choices=list(BATCHES), nargs="*", default=list(BATCHES))
    parser.add_argument("--groups", type=int, choices=(1, 2, 3, 4), nargs="*", default=[1, 2, 3, 4])
    asked = parser.parse_args()
    ideal() if asked.row == "ideal" else measured(asked.n, tuple(asked.groups))
