"""What a network says of examples, one by one, in the mode in which that means something."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedspill.auditing.feeding.weights import has_bare_norms, has_untouched_norms
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Batch

AT_ONCE, SENTENCES_AT_ONCE = 64, 8
"""Examples in memory at a time; of sentences fewer, as every token has logits of the whole vocabulary."""


@dataclass(frozen=True)
class Answers:
    """Of examples (n,), or of the tokens of sentences (n * t,).

    Attributes:
        loss: the model's own, the mean over the examples.
        surprise: cross-entropy of each, in nats.
        right: whether the likeliest class is the label.
        labels: the classes.
        classes: how many the network knows.
    """

    loss: float
    surprise: Tensor
    right: Tensor
    labels: Tensor
    classes: int

    @property
    def accuracy(self) -> float:
        """Share that is right."""
        return float(self.right.double().mean())


def loss_of(model: Model, batch: Batch) -> float:
    """The model's own loss, the mean over parts of the examples."""
    total = 0.0
    with torch.no_grad(), seeded_globals(stream(0, "feeding")):
        for part in _parts(batch):
            z, labels = _encoded(model, part)
            total += float(model.loss(model.params, z, labels)) * len(part)
    return total / len(batch)


def answers(model: Model, batch: Batch) -> Answers | None:
    """What it says of every example; None where the labels are no classes that logits could be compared with."""
    calm, found, total, classes = measured_mode(model), list[tuple[Tensor, Tensor, Tensor]](), 0.0, 0
    with torch.no_grad(), seeded_globals(stream(0, "feeding")):
        for part in _parts(batch):
            z, labels = _encoded(calm, part)
            logits = calm.logits(calm.params, z)
            if not _comparable(logits, labels):
                return None
            total, classes = total + float(calm.loss_fn(logits, labels)) * len(part), logits.shape[-1]
            found.append(_each(logits.flatten(0, -2).double(), labels.flatten()))
    surprise, right, labels = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    return Answers(total / len(batch), surprise, right, labels, classes)


def _each(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return functional.cross_entropy(logits, labels, reduction="none"), logits.argmax(-1) == labels, labels


def measured_mode(model: Model) -> Model:
    """Eval mode; a network whose running statistics were never kept is measured with those of the batch, without masks.

    Batches are of `AT_ONCE` examples, or `SENTENCES_AT_ONCE` sentences.
    """
    if model.training and has_untouched_norms(model):
        return model.without_masks()
    return model.in_eval_mode()


def takes_batch_statistics(model: Model) -> bool:
    """Whether BatchNorm is measured with the statistics of the batch: see `measured_mode`, or it keeps no others."""
    return measured_mode(model).training or has_bare_norms(model)


def _parts(batch: Batch) -> list[Batch]:
    step = AT_ONCE if batch.labels.ndim == 1 else SENTENCES_AT_ONCE
    return [batch[first : first + step] for first in range(0, len(batch), step)]


def _encoded(model: Model, part: Batch) -> tuple[Tensor, Tensor]:
    there = part.to(model.like)
    return model.input.encode(there.inputs), there.labels


def _comparable(logits: Tensor, labels: Tensor) -> bool:
    return logits.ndim == labels.ndim + 1 and logits.shape[-1] > 1 and not labels.is_floating_point()
