"""Features at the head of networks of other kinds: the share that is right, by the network's loss on the image.

An example that sends nothing above rounding is counted as silent, and examples of one class that rounding merges as
merged: of these the gradient does not hold the features.
"""

import argparse
import itertools
import time
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
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
LOSSES = (1e-8, 1e-6, 1e-4, 1e-2, 1.0)
"""Bounds between which losses are counted apart."""


@dataclass(frozen=True)
class Heads:
    """One batch: of each image its loss, the error of its features, and whether they are said to be certain."""

    loss: Tensor
    error: Tensor
    certain: Tensor
    told: Disaggregated
    seconds: float


def run(args: argparse.Namespace) -> None:
    """By network and size of the batch."""
    for name in args.networks or [*HEADS, *OWN]:
        for size in args.sizes:
            model = head_network(name, 0)
            found = [_one(model, batch) for batch in batches(args.batches, size)]
            keep(args, "heads", {f"{name}, B = {size}": _counts(found)})


def _one(model: Model, batch: Batch) -> Heads:
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
    loss = functional.cross_entropy(logits.double(), batch.labels, reduction="none")
    return Heads(loss, error, certain, told, seconds)


def _errors(told: Disaggregated, true: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image, by what is matched with it; infinite and not certain where nothing is."""
    apart = torch.cdist(true, told.features)
    rows, columns = (torch.as_tensor(index) for index in linear_sum_assignment(apart.numpy()))
    error, certain = torch.full_like(true[:, 0], torch.inf), torch.zeros(len(true), dtype=torch.bool)
    error[rows] = apart[rows, columns] / (true - true.mean(0))[rows].norm(dim=1).clamp_min(1e-300)
    certain[rows] = told.certain[columns]
    return error, certain


def _counts(found: list[Heads]) -> dict[str, object]:
    loss, error = torch.cat([f.loss for f in found]), torch.cat([f.error for f in found])
    certain, copies = torch.cat([f.certain for f in found]), torch.cat([f.told.copies for f in found])
    right, counts = error < RIGHT, dict[str, object]()
    counts["images"] = len(loss)
    counts["silent"] = sum(f.told.silent for f in found)
    counts["merged"] = int(copies[copies > 1].sum())
    counts["heard"] = int((copies == 1).sum())
    counts["right"] = int(right.sum())
    edges = (0.0, *LOSSES, torch.inf)
    for low, high in itertools.pairwise(edges):
        inside = (loss >= low) & (loss < high)
        counts[f"right, loss {low:g} to {high:g}"] = f"{int(right[inside].sum())}/{int(inside.sum())}"
    counts["certain"] = int(certain.sum())
    counts["certain but wrong"] = int((certain & ~right).sum())
    counts["median_error"] = f"{float(error.median()):.0e}"
    counts["most_seconds"] = round(max(f.seconds for f in found), 2)
    return counts
