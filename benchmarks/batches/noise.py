"""What survives noise, clipping, the largest tenth of the entries, and int8."""

import argparse

import torch

from benchmarks.batches.measuring import Protect, Read, read, summary
from benchmarks.batches.networks import batches, mlp
from benchmarks.batches.records import keep
from fedspill.core.roles import ClientContext
from fedspill.core.types import Update
from fedspill.defences.clipping import Clipping
from fedspill.defences.gradient_noise import GradientNoise

SIGMAS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def largest_tenth(update: Update, context: ClientContext, rng: torch.Generator) -> Update:
    """Every tensor's smaller nine tenths become 0."""

    def kept(value: torch.Tensor) -> torch.Tensor:
        number = max(1, value.numel() // 10)
        return value.where(value.abs() >= value.abs().flatten().topk(number).values[-1], 0.0)

    return Update(update.kind, {k: kept(v) for k, v in update.values.items()})


def int8(update: Update, context: ClientContext, rng: torch.Generator) -> Update:
    """Every tensor in 255 steps between its largest magnitudes."""

    def rounded(value: torch.Tensor) -> torch.Tensor:
        step = value.abs().max().clamp_min(1e-30) / 127
        return (value / step).round() * step

    return Update(update.kind, {k: rounded(v) for k, v in update.values.items()})


def bfloat16(update: Update, context: ClientContext, rng: torch.Generator) -> Update:
    """Every number rounded to bfloat16."""
    return Update(update.kind, {k: v.bfloat16().to(v) for k, v in update.values.items()})


def levels() -> dict[str, Protect | None]:
    """By name what a client does to its update."""
    noise = {f"noise {s:g} of the root mean square": GradientNoise(s, relative=True).stages().protect for s in SIGMAS}
    return {
        "none": None,
        **noise,
        "clipped to norm 0.1": Clipping(0.1).stages().protect,
        "largest tenth": largest_tenth,
        "int8": int8,
        "bfloat16": bfloat16,
    }


def reads(args: argparse.Namespace, protect: Protect | None, size: int) -> list[Read]:
    """Batches of an untrained network that was drawn anew for each, or of a trained one."""
    return [
        read(mlp(0 if args.trained else number, args.trained), batch, protect=protect, seed=number)
        for number, batch in enumerate(batches(args.batches, size, args.start), args.start)
    ]


def run(args: argparse.Namespace) -> None:
    """By what is done and size of the batch."""
    network = f"{args.trained} epochs, " if args.trained else ""
    for name, protect in levels().items():
        for size in args.sizes:
            if not args.levels or name.split(" of ")[0] in args.levels:
                keep(args, "noise", {f"{network}{name}, B = {size}": summary(reads(args, protect, size))})
