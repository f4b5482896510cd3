"""Features at the head of networks of other kinds: the share that is right, by the network's loss on the image."""

import argparse
import itertools
import time

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.batches.networks import HEADS, OWN, batches, head_network
from benchmarks.batches.records import keep
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.probing.head import features_and_logits, last_linear
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.inversion.disaggregation.readout import Disaggregated, disaggregate

RIGHT = 1e-3
"""Relative error of features, over their distance from the batch's mean, below which they are right."""
LOSSES = (1e-4, 1e-2, 1.0)
"""Bounds between which losses are counted apart."""


def run(args: argparse.Namespace) -> None:
    """By network and size of the batch."""
    for name in args.networks or [*HEADS, *OWN]:
        for size in args.sizes:
            model = head_network(name, 0)
            found = [_one(model, batch) for batch in batches(args.batches, size)]
            keep(args, "heads", {f"{name}, B = {size}": _counts(found)})


def _one(model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor, float]:
    """Of each image its loss, the error of its features, whether they are said to be certain; and the seconds."""
    head, update = last_linear(model), local_update(model, batch, FedSGD())
    assert head.bias is not None
    true, logits = features_and_logits(model, model.params, model.input.encode(batch.inputs), head)
    rows = torch.cat([head.rows(update.values[head.weight]), update.values[head.bias][:, None]], 1)
    began = time.process_time()
    told = disaggregate(
        rows,
        head.rows(model.params[head.weight]),
        model.params[head.bias],
        batch.labels,
        non_negative=bool((true >= 0).all()),
        rng=stream(0, "batches", "heads"),
    )
    seconds = time.process_time() - began
    error, certain = _errors(told, true.double())
    return functional.cross_entropy(logits, batch.labels, reduction="none"), error, certain, seconds


def _errors(told: Disaggregated, true: Tensor) -> tuple[Tensor, Tensor]:
    nearest = torch.cdist(true, told.features).min(1)
    size = (true - true.mean(0)).norm(dim=1).clamp_min(1e-300)
    return nearest.values / size, told.certain[nearest.indices]


def _counts(found: list[tuple[Tensor, Tensor, Tensor, float]]) -> dict[str, object]:
    loss, error, certain = (torch.cat([f[k] for f in found]) for k in range(3))
    right, counts = error < RIGHT, dict[str, object]()
    edges = (0.0, *LOSSES, torch.inf)
    for low, high in itertools.pairwise(edges):
        inside = (loss >= low) & (loss < high)
        counts[f"right, loss {low:g} to {high:g}"] = f"{int(right[inside].sum())}/{int(inside.sum())}"
    counts["certain"] = int(certain.sum())
    counts["certain but wrong"] = int((certain & ~right).sum())
    counts["median_error"] = f"{float(error.median()):.0e}"
    counts["most_seconds"] = round(max(f[3] for f in found), 2)
    return counts
