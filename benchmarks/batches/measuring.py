"""What the attack makes of one batch, and how near that is."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedspill.attacks.softmax_disaggregation import SoftmaxDisaggregation
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext
from fedspill.core.types import Batch, Update

EXACT = 60.0
"""PSNR in dB from which on an image counts as exact."""
Protect = Callable[[Update, ClientContext, torch.Generator], Update | None]


@dataclass(frozen=True)
class Read:
    """One batch.

    Attributes:
        psnr: of each private image in dB, 0 where nothing was read.
        certified: of each private image, whether what was matched with it is.
        labels: whether the labels that were used are right; where they were granted, they are.
        seconds: of one thread's processor time.
    """

    psnr: Float[Tensor, " n"]
    certified: Bool[Tensor, " n"]
    labels: bool
    seconds: float

    @property
    def exact(self) -> Bool[Tensor, " n"]:
        """Images that are exact."""
        return self.psnr >= EXACT


def read(
    model: Model,
    batch: Batch,
    *,
    granted: bool = True,
    protect: Protect | None = None,
    seed: int = 0,
    training: LocalTraining | None = None,
    assumed: LocalTraining | None = None,
) -> Read:
    """The client's update, attacked by a server that knows its protocol, one gradient if None, or assumes another."""
    training = training or FedSGD()
    update: Update | None = local_update(model, batch, training)
    if protect is not None:
        update = protect(update, ClientContext(model, batch, training), stream(seed, "batches", "defence"))
    assert update is not None
    labels = batch.labels if granted else None
    knowledge = ServerKnowledge(model, num_examples=len(batch), labels=labels, local_training=assumed or training)
    began = time.process_time()
    try:
        got = SoftmaxDisaggregation().reconstruct(update, knowledge, stream(seed, "batches", "attack"))
    except NotApplicable:
        nothing = torch.zeros(len(batch))
        return Read(nothing, nothing.bool(), granted, time.process_time() - began)
    seconds = time.process_time() - began
    assert got.labels is not None
    assert got.confidence is not None
    same = sorted(got.labels.tolist()) == sorted(batch.labels.tolist())
    psnr, found = matched(got.inputs, batch.inputs)
    certified = torch.zeros(len(batch), dtype=torch.bool)
    certified[found >= 0] = got.confidence[found[found >= 0]] == 1
    return Read(psnr, certified, same, seconds)


def matched(rebuilt: Tensor, private: Tensor) -> tuple[Tensor, Tensor]:
    """PSNR of each private image with the one that is matched to it, and its number; -1 and 0 dB for none."""
    apart = torch.cdist(rebuilt.double().flatten(1), private.double().flatten(1)).square() / private[0].numel()
    rows, columns = linear_sum_assignment(apart.numpy())
    psnr, found = torch.zeros(len(private)), torch.full((len(private),), -1)
    psnr[columns] = (-10 * apart[rows, columns].clamp_min(1e-20).log10()).float()
    found[columns] = torch.as_tensor(rows)
    return psnr, found


def summary(reads: list[Read]) -> dict[str, float | int]:
    """Counts over batches."""
    psnr = torch.cat([r.psnr for r in reads])
    exact, certified = torch.cat([r.exact for r in reads]), torch.cat([r.certified for r in reads])
    return {
        "batches": len(reads),
        "images": len(psnr),
        "exact": int(exact.sum()),
        "whole_batches": sum(bool(r.exact.all()) for r in reads),
        "median_psnr": round(float(psnr.median()), 1),
        "worst_psnr": round(float(psnr.min()), 1),
        "certified": int(certified.sum()),
        "certified_but_not_exact": int((certified & ~exact).sum()),
        "exact_but_not_certified": int((exact & ~certified).sum()),
        "right_labels": sum(r.labels for r in reads),
        "median_seconds": round(sorted(r.seconds for r in reads)[len(reads) // 2], 2),
        "most_seconds": round(max(r.seconds for r in reads), 2),
    }
