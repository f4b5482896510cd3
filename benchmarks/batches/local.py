"""Whole images out of a network 3072-256-128-10 behind several steps of local training, with their own labels."""

import argparse
from dataclasses import replace

from benchmarks.batches.measuring import Read, read, summary
from benchmarks.batches.networks import batches, mlp
from benchmarks.batches.records import keep
from fedspill.core.local_training.update import FedAvg

RATES = (1e-3, 1e-2, 1e-1)
CASES = {
    "2 steps of 1": (2, FedAvg(minibatch_size=1)),
    "4 steps of 1": (4, FedAvg(minibatch_size=1)),
    "8 steps of 1": (8, FedAvg(minibatch_size=1)),
    "2 steps of 4": (8, FedAvg(minibatch_size=4)),
    "2 epochs of 4 in steps of 2": (4, FedAvg(epochs=2, minibatch_size=2)),
}
"""By name the number of images and the protocol."""


def reads(args: argparse.Namespace, size: int, training: FedAvg) -> list[Read]:
    """Batches of an untrained network that was drawn anew for each."""
    found = list[Read]()
    for number, batch in enumerate(batches(args.batches, size)):
        drawn = replace(training, shuffle=True, draws=number) if args.shuffled else training
        told = replace(drawn, draws=None)
        found.append(read(mlp(number), batch, granted=not args.unlabelled, training=drawn, assumed=told))
    return found


def run(args: argparse.Namespace) -> None:
    """By learning rate and steps."""
    order, given = ("unknown" if args.shuffled else "known"), ("inferred" if args.unlabelled else "granted")
    for lr in args.rates:
        for name in args.cases:
            size, training = CASES[name]
            about = summary(reads(args, size, replace(training, lr=lr)))
            keep(args, "local", {f"rate {lr:g}, {name}, order {order}, labels {given}": about})
