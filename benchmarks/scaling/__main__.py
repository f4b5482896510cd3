"""Scaling laws of gradient matching: time and memory of one iteration, and what many local steps do to an attack.

    python -m benchmarks.scaling cost
    FEDSPILL_DATA=/data python -m benchmarks.scaling fedavg
    python -m benchmarks.scaling table --write

`cost` needs no data and about five minutes of a quiet core; `fedavg` needs the data folder that holds
`cifar-10-batches-py`. Both go on where they were killed. `--quick` tries each in a minute and keeps its results apart.
"""

import argparse
import sys
from pathlib import Path

import torch

from benchmarks.common import records
from benchmarks.scaling import cost, fedavg, table
from benchmarks.scaling.cases import LINES
from fedspill.core.errors import BadInput


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parts = {"cost": (cost, _cost), "fedavg": (fedavg, _fedavg), "table": (table, _table)}
    return records.parse_parts(__doc__, parts, _common, words, benchmark="scaling")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small trial, kept in runs/scaling")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--redo", action="store_true", help="make again what is on disk")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results, instead of benchmarks/results")


def _cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lines", nargs="+", choices=list(LINES), default=list(LINES))
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="of counted iterations of a point, at least 3 of them"
    )
    parser.add_argument("--most", type=int, default=None, help="points of a line, from the smallest; all by default")
    parser.add_argument("--worker", nargs=2, metavar=("LINE", "X"), default=None, help=argparse.SUPPRESS)


def _fedavg(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--iterations", type=int, default=240)
    parser.add_argument("--preset", default=fedavg.PRESET)
    parser.add_argument("--images", type=int, nargs="+", default=[9000, 9100, 9200], help="numbers of test images")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 100], help="local steps")


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--write", action="store_true", help="into docs/performance.md and docs/scaling.png")


def hasten(args: argparse.Namespace) -> None:
    """Makes everything of a trial small."""
    if args.run is cost.run:
        args.seconds, args.most = 0.0, 2
        args.lines = ["steps"] if args.lines == list(LINES) else args.lines
    if args.run is fedavg.run:
        args.iterations, args.images, args.steps = 4, args.images[:1], [1, 3]


def main(words: list[str] | None = None) -> None:
    args = parse(words)
    if args.quick:
        hasten(args)
    torch.set_num_threads(args.threads)
    try:
        args.run(args)
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
