"""Whole images out of a network 3072-256-128-10 on CIFAR-10, with their own labels."""

import argparse

from benchmarks.batches.measuring import read, summary
from benchmarks.batches.networks import accuracy, batches, mlp
from benchmarks.batches.records import keep


def run(args: argparse.Namespace) -> None:
    """By training, size of the batch and whether labels are granted."""
    for epochs in args.epochs:
        for size in args.sizes:
            seeds = range(args.seeds if epochs == 0 else 1)
            reads = [
                read(mlp(seed, epochs), batch, granted=not args.unlabelled)
                for seed in seeds
                for batch in batches(args.batches, size)
            ]
            about = {"accuracy": round(accuracy(mlp(0, epochs)), 2), **summary(reads)}
            given = "labels inferred" if args.unlabelled else "labels granted"
            keep(args, "mlp", {f"{epochs} epochs, B = {size}, {given}": about})
