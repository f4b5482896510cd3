"""What a client draws while it trains: masks, views and orders; and what is assumed where they are not known."""

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from fedspill.core.local_training.protocol import FedAvg, LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Encoded
from fedspill.core.watching.operations import EveryOperation


def is_random(model: Model, z: Encoded) -> bool:
    """Whether the network draws in its mode: dropout, stochastic depth, of modules and of functions.

    One call tells where nothing was drawn at all; what was drawn may be without effect, which a second call tells.
    """
    one, drew = _logits(model, z, 0)
    if not drew:
        return False
    two, _ = _logits(model, z, 1)
    return not bool(((one == two) | (one.isnan() & two.isnan())).all())


def _logits(model: Model, z: Encoded, seed: int) -> tuple[torch.Tensor, bool]:
    """The logits, and whether anything was drawn for them."""
    with torch.no_grad(), seeded_globals(stream(seed, "is it random")), _Drawing() as drawing:
        before = _other_generators()
        logits = model.logits(model.params, z)
        return logits, drawing.drew or _other_generators() != before


def _other_generators() -> object:
    numpy = np.random.get_state(legacy=False)
    return random.getstate(), {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in numpy["state"].items()}


class _Drawing(EveryOperation):
    """Notes whether PyTorch draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drew = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.drew = self.drew or torch.Tag.nondeterministic_seeded in func.tags
        return func(*args, **(kwargs or {}))


def draws_anything(model: Model, training: LocalTraining, z: Encoded) -> bool:
    """Whether two clients with the same examples may send different updates."""
    shuffles = isinstance(training, FedAvg) and training.shuffle
    return shuffles or bool(training.conditions.augmentation) or is_random(model, z)


def with_draws(training: LocalTraining, rng: torch.Generator) -> LocalTraining:
    """The protocol of a client whose draws follow from `rng`."""
    return replace(training, draws=int(torch.randint(2**62, (), generator=rng)))


def without_draws(model: Model, training: LocalTraining | None) -> tuple[Model, LocalTraining | None]:
    """What a server assumes that does not know the draws: no dropout, examples as they are and in one order."""
    unknown = None if training is None else replace(training, draws=None)
    return model.without_masks(), unknown
