"""The same with 100 classes: labels at random for CIFAR-10's images, duplicates as they come, or all distinct."""

import argparse

import torch

from benchmarks.batches.measuring import read, summary
from benchmarks.batches.networks import batches, mlp
from benchmarks.batches.records import keep
from fedspill.core.rng import stream
from fedspill.core.types import Batch


def run(args: argparse.Namespace) -> None:
    """By size of the batch."""
    for size in args.sizes:
        reads = []
        for number, batch in enumerate(batches(args.batches, size)):
            rng = stream(number, "batches", "labels")
            drawn = (
                torch.randperm(100, generator=rng) if args.distinct else torch.randint(0, 100, (100,), generator=rng)
            )
            own = Batch(batch.inputs, drawn[:size])
            reads.append(read(mlp(number, 0, 100), own, granted=not args.unlabelled))
        given = "labels inferred" if args.unlabelled else "labels granted"
        kind = "distinct" if args.distinct else "at random"
        keep(args, "hundred", {f"B = {size}, {kind}, {given}": summary(reads)})
