"""What a client draws while it trains: masks, views and orders; and what is assumed where they are not known."""

from dataclasses import replace

import torch

from fedspill.core.local_training.protocol import FedAvg, LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Encoded


def is_random(model: Model, z: Encoded) -> bool:
    """Whether the network draws in its mode: dropout, stochastic depth, of modules and of functions."""
    logits = list[torch.Tensor]()
    with torch.no_grad():
        for seed in range(2):
            with seeded_globals(stream(seed, "is it random")):
                logits.append(model.logits(model.params, z))
    one, two = logits
    return not bool(((one == two) | (one.isnan() & two.isnan())).all())


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
