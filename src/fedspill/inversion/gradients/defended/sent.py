"""Which entries of a tensor were sent as they are, how noisy they are, and between what the others lie."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedAvg
from fedspill.core.types import Update

LEVELS = math.sqrt(12)
"""Steps of rounding over its standard deviation."""
EQUAL = 1e-5
"""Relative difference below which a value is the largest one."""


def noise_on(name: str, update: Update, knowledge: ServerKnowledge, known: KnownDefence, scale: float) -> float:
    """Standard deviation of noise and rounding on every entry of a tensor that was multiplied by `scale`."""
    clients, training = knowledge.num_clients, knowledge.local_training
    each = max(1, (knowledge.num_examples or clients) // clients)
    steps = training.local_steps(each) if isinstance(training, FedAvg) else 1
    noise = known.deviation(update, knowledge.num_examples, clients, steps)
    step = float(update.values[name].abs().max()) / (2 ** (known.bits - 1) - 1) if known.bits else 0.0
    return abs(scale) * math.hypot(noise, step / LEVELS)


def as_it_was(update: Update, name: str, known: KnownDefence) -> Bool[Tensor, " ..."]:
    """Entries of a tensor that were sent, and that were not cut."""
    value = update.values[name]
    kept = value != 0 if known.survivors else torch.ones_like(value, dtype=torch.bool)
    return kept & ~was_cut(update, name, known)


def was_cut(update: Update, name: str, known: KnownDefence) -> Bool[Tensor, " ..."]:
    """Entries that were at least as large as what was sent of them, of the same sign."""
    value = update.values[name]
    if not known.cut:
        return torch.zeros_like(value, dtype=torch.bool)
    top = max(float(v.abs().max()) for v in update.values.values())
    return (value != 0) & (value.abs() >= top * (1 - EQUAL))


def ranges(update: Update, name: str, known: KnownDefence) -> tuple[Float[Tensor, " ..."], Float[Tensor, " ..."]]:
    """The least and the largest that an entry which was not sent as it is may have been, float64.

    What was left out as the smallest of its tensor is no larger than the smallest that was sent; behind noise it may
    be anything.
    """
    value = update.values[name].double()
    most = torch.full_like(value, torch.inf)
    if known.survivors and not known.is_noisy and bool(value.any()):
        most = most.where(value != 0, float(value.abs().where(value != 0, torch.inf).min()))
    cut = was_cut(update, name, known)
    return torch.where(cut & (value > 0), value, -most), torch.where(cut & (value < 0), value, most)
