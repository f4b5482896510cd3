"""Where the results of `scaling` lie."""

import argparse
from pathlib import Path

from benchmarks.common import places

RESULTS = places.RESULTS / "scaling"
QUICK = Path("runs") / "scaling"
"""Where trials of the benchmark itself go; git ignores it."""


def folder(args: argparse.Namespace) -> Path:
    """Of the results, one for each kind of device."""
    return Path(args.out or (QUICK if args.quick else RESULTS)) / str(args.device).partition(":")[0]
