"""Gradient matching: fedspill beside breaching 0.1.2 (`invertinggradients`), one process, network, image and update.

    make bench-env
    FEDSPILL_DATA=/data .venv-bench/bin/python -m benchmarks.matching cost --preset paper,strong
    FEDSPILL_DATA=/data .venv-bench/bin/python -m benchmarks.matching curves --tools breaching
    FEDSPILL_DATA=/data .venv-bench/bin/python -m benchmarks.matching curves --tools fedspill --preset paper,strong
    .venv-bench/bin/python -m benchmarks.matching table

`--quick` tries each of them in a minute or two and keeps its results apart. The data folder holds
`cifar-10-batches-py` and the trained ResNet-20 in `weights`. Each tool keeps its own conventions: the peer its
total variation (weight 0.2), its box, its start and its Adam on signs; fedspill those of its presets.
"""

import argparse
import sys
import warnings
from pathlib import Path

import torch

from benchmarks.common import records
from benchmarks.matching import cost, curves, kept, table
from benchmarks.matching.cost import PEER
from benchmarks.matching.world import COST, QUALITY
from fedspill.core.errors import BadInput

TOOLS = (PEER, "fedspill")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parts = {"cost": (cost, _cost), "curves": (curves, _curves), "table": (table, _table)}
    return records.parse_parts(__doc__, parts, _common, words)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a small trial, kept in runs/matching")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results, instead of benchmarks/results")


def _running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default="paper", help="presets of fedspill, parted by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="changes all the presets")


def _cost(parser: argparse.ArgumentParser) -> None:
    _running(parser)
    parser.add_argument("--cases", nargs="+", choices=list(COST), default=list(COST))
    parser.add_argument("--iterations", type=int, default=20, help="of a block")
    parser.add_argument("--warmup", type=int, default=3, help="iterations of a block that are not counted")
    parser.add_argument("--repeats", type=int, default=3, help="blocks of each tool")
    parser.add_argument("--processes", type=int, default=3, help="fresh ones per tool, for memory; 0 leaves it out")
    parser.add_argument("--worker", nargs=2, metavar=("TOOL", "CASE"), default=None, help=argparse.SUPPRESS)


def _curves(parser: argparse.ArgumentParser) -> None:
    _running(parser)
    parser.add_argument("--cases", nargs="+", choices=list(QUALITY), default=list(QUALITY))
    parser.add_argument("--iterations", type=int, default=2400, help="of the peer; fedspill's are its presets'")
    parser.add_argument("--images", type=int, default=3, help="the first so many of each case")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of untrained weights and of starts")
    parser.add_argument("--redo", action="store_true", help="make runs again that are on disk")


def _table(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", default=None, help="those of fedspill that are shown; all by default")
    parser.add_argument("--clock", choices=kept.CLOCKS, default=kept.CLOCKS[0])
    parser.add_argument("--plot", type=Path, default=None, help="file of the plot; none by default")
    parser.add_argument("--peer", default=PEER, help="the tool that the others are held against")


def hasten(args: argparse.Namespace) -> None:
    """Makes everything of a trial small."""
    if args.run is cost.run:
        args.iterations, args.warmup, args.repeats, args.processes = 8, 2, 2, 1
        args.cases = ["resnet20x1"] if args.cases == list(COST) else args.cases
    if args.run is curves.run:
        args.iterations, args.images = 20, 1
        args.cases = ["resnet20_trained"] if args.cases == list(QUALITY) else args.cases


def main() -> None:
    args = parse()
    warnings.filterwarnings("ignore", category=UserWarning)  # of the peer's libraries
    if args.quick:
        hasten(args)
    torch.set_num_threads(getattr(args, "threads", torch.get_num_threads()))
    torch.backends.cudnn.benchmark = True  # the peer's own default, and the same for both
    try:
        args.run(args)
    except BadInput as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
