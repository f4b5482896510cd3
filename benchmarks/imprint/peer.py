"""Robbing the Fed, fedspill beside breaching 0.1.2: one process, one network, the same weights, images and labels.

Each tool plants its own module, computes the gradient in its own client and reads it out in its own way, with the
same linear function and cutoffs; the random vectors differ, as each tool draws its own, and the number of exact
images with them (the notes tell how much). Times are medians of runs that alternate (peer, fedspill, peer, ...) after
one that is not counted; peak memory is the median of three fresh processes with one run of one tool each. Both hand
over at most as many candidates as there are examples (fedspill its surest, the peer by its own rule); a missing one
is held to the mean colour. The network is an untrained ResNet-18 in eval mode, the update one FedSGD gradient.

    make bench-env
    FEDSPILL_DATA=/data .venv-bench/bin/python -m benchmarks.imprint.peer --quick
    FEDSPILL_DATA=/data .venv-bench/bin/python -m benchmarks.imprint.peer

The data folder holds `cifar-10-batches-py` and `imagenet128/CLASS/*.png`, 128 photographs of 224x224 pixels.
"""

import argparse
import gc
import json
import shlex
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks.common.places import RESULTS
from benchmarks.imprint.world import (
    CASES,
    EXACT,
    EXAMPLES,
    VARIANTS,
    Run,
    Variant,
    World,
    fedspill_run,
    predicted,
    psnr,
    resident,
    world,
)

SIDES = ("breaching", "fedspill")
PACKAGES = ("torch", "breaching", "hydra-core", "torchvision", "numpy")
PROCESSES = 3
"""Fresh ones per tool and variant, for memory."""


@dataclass(frozen=True)
class Row:
    """One tool on one variant of one case.

    Attributes:
        update: seconds of the client's gradient, one per counted run; so `readout` and `whole`.
        base: MB of resident memory before the attack, with the network and the images.
        peak: MB at most, during the attack.
        exact: images of PSNR >= 60 dB.
        mean: PSNR in dB, capped at 100 for each image.
    """

    case: str
    variant: str
    side: str
    update: list[float]
    readout: list[float]
    whole: list[float]
    base: float
    peak: float
    exact: int
    mean: float
    median: float


def runner(side: str) -> Callable[[World, Variant], Run]:
    """The tool's own run; the peer is imported only where it runs, so that memory is that of one tool."""
    if side == "fedspill":
        return fedspill_run
    from benchmarks.imprint.breaching_side import breaching_run

    return breaching_run


def worker(side: str, case: str, variant: str, seed: int) -> None:
    """One run alone in this process; prints its memory."""
    run, given = runner(side), world(case, seed)
    base = resident("VmRSS")
    run(given, VARIANTS[variant])
    print(json.dumps([base, resident("VmHWM")]))


def memory(side: str, case: str, variant: str, args: argparse.Namespace) -> tuple[float, float]:
    """Resident memory before the attack and at most, of the middle one of some fresh processes."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.imprint.peer", "--worker", side, case, variant]
    command += ["--threads", str(args.threads), "--seed", str(args.seed)]
    outs = [subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout for _ in range(PROCESSES)]
    found: list[tuple[float, float]] = [tuple(json.loads(out.splitlines()[-1])) for out in outs]
    return sorted(found, key=lambda pair: pair[1])[len(found) // 2]


def measure(case: str, variant: str, given: World, args: argparse.Namespace) -> list[Row]:
    """Both tools, alternating."""
    held = {side: memory(side, case, variant, args) for side in SIDES}
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for repeat in range(args.repeats + 1):
        for side in SIDES:
            done = runner(side)(given, VARIANTS[variant])
            gc.collect()
            if repeat:
                runs[side].append(done)
    return [row(case, variant, side, given, runs[side], held[side]) for side in SIDES]


def row(case: str, variant: str, side: str, given: World, runs: list[Run], held: tuple[float, float]) -> Row:
    """Sums up; what was found is that of the last run (they are equal)."""
    found = psnr(runs[-1], given)
    return Row(
        case,
        variant,
        side,
        [r.update for r in runs],
        [r.readout for r in runs],
        [r.whole for r in runs],
        *held,
        int((found >= EXACT).sum()),
        float(found.mean()),
        float(found.median()),
    )


def conditions(args: argparse.Namespace) -> str:
    """Everything that a number needs beside it."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    sizes = "; ".join(f"{n}: {EXAMPLES} images of {CASES[n].data}, {CASES[n].rows} rows" for n in args.cases)
    return (
        f"`python -m benchmarks.imprint.peer {shlex.join(sys.argv[1:])}`\n\n"
        f"{versions}; {args.threads} threads; seed {args.seed} (images, weights, random vectors); medians of"
        f" n = {args.repeats} alternating runs after one uncounted; memory: median of {PROCESSES} processes.\n"
        f"{sizes}.\n"
    )


def table(rows: list[Row]) -> str:
    """Markdown; the third line of each variant is fedspill divided by the peer."""
    head = (
        "| case | variant | tool | update s | readout s | whole s | peak MB | above start MB | exact | PSNR mean dB |"
    )
    lines = [head, "|---|---|---|" + "---:|" * 7]
    for peer, ours in zip(rows[::2], rows[1::2], strict=True):
        for r in (peer, ours):
            cells = [f"{statistics.median(v):.2f}" for v in (r.update, r.readout, r.whole)]
            cells += [f"{r.peak:.0f}", f"{r.peak - r.base:.0f}", f"{r.exact}/{EXAMPLES}", f"{r.mean:.1f}"]
            lines.append(f"| {r.case} | {r.variant} | {r.side} | " + " | ".join(cells) + " |")
        pairs = [(ours.update, peer.update), (ours.readout, peer.readout), (ours.whole, peer.whole)]
        ratios = [statistics.median(a) / statistics.median(b) for a, b in pairs]
        ratios += [ours.peak / peer.peak, (ours.peak - ours.base) / (peer.peak - peer.base)]
        lines.append("| | | ratio | " + " | ".join(f"{q:.2f}" for q in ratios) + " | | |")
    return "\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", dest="cases", action="store_const", const=["cifar"], default=list(CASES))
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each tool")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of imprint_peer.md and .json")
    parser.add_argument("--worker", nargs=3, metavar=("SIDE", "CASE", "VARIANT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    warnings.filterwarnings("ignore", message="(?s).*version_base", category=UserWarning)
    torch.set_num_threads(args.threads)
    if args.worker:
        return worker(*args.worker, args.seed)
    rows, notes = list[Row](), list[str]()
    for case in args.cases:
        given = world(case, args.seed)
        for variant in VARIANTS:
            rows += measure(case, variant, given, args)
            print(table(rows[-2:]), flush=True)
        counts = predicted(given, VARIANTS["random/normal"])
        notes.append(f"- {case}: exact images by the draw of the random vector, {len(counts)} draws: {counts}\n")
    text = conditions(args) + "\n" + table(rows) + "\n" + "".join(notes)
    print(text)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "imprint_peer.md").write_text(f"# Robbing the Fed: fedspill beside breaching\n\n{text}")
    record = {"conditions": conditions(args), "notes": notes, "rows": [asdict(r) for r in rows]}
    (args.out / "imprint_peer.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
