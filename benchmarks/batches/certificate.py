"""The certificate, at all levels of noise: no wrong example certified, and how many of the exact ones are."""

import argparse

from benchmarks.batches.measuring import Read, summary
from benchmarks.batches.noise import levels, reads
from benchmarks.batches.records import keep


def run(args: argparse.Namespace) -> None:
    """All levels together."""
    found = list[Read]()
    for protect in levels().values():
        for size in args.sizes:
            found += reads(args, protect, size)
    keep(args, "certificate", {f"B in {args.sizes}, {args.batches} batches each": summary(found)})
