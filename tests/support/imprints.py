"""What tests of imprint modules share."""

import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from tests.support.worlds import batch

EXACT = 1e-3
"""Root mean squared error of 60 dB."""


def stored(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random pictures of 8 bits."""
    made = batch(n, seed, dtype)
    return Batch((made.inputs * 255).round() / 255, made.labels)


def read(tampering, model: Model, private: Batch, training=FedSGD(), public=None, clients: int = 1, round: int = 0):
    """The reconstruction, what was expected, and which private examples it holds exactly."""
    public = stored(400, 1, model.like.dtype) if public is None else public
    tampered = tampering.tamper(model, public, round, stream(3, "server"))
    z = model.input.encode(private.inputs)
    update = aggregate_update(tampered.model, z, private.labels, training, clients)
    known = ServerKnowledge(tampered.model, clients, len(private), local_training=training)
    found = tampered.readout.reconstruct(update, known, stream(0, "attack"))
    gap = torch.cdist(found.inputs.flatten(1), private.inputs.flatten(1)) / private.inputs[0].numel() ** 0.5
    return found, tampered.readout.predict(tampered.model, z), (gap < EXACT).any(0), gap
