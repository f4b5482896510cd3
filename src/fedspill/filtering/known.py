"""The network and the update that are pushed through a chain: what goes in is known to the last digit."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, seeded_globals, stream
from fedspill.core.types import Batch, Params
from fedspill.filtering.chains.chain import Offer
from fedspill.zoo.data import load

SHAPE = (3, 8, 8)
CLASSES, HIDDEN = 10, 32
ADDED = "added_by_fedspill.num_batches_tracked"
"""Whole numbers for a network that has none of its own."""
BATCHES = 3
"""By so many the counters of batches have grown."""
MOVED = 0.1
"""Standard deviation of the known change of buffers."""


def usual_model() -> Model:
    """A small network that has everything: fully connected layers, BatchNorm's statistics, and its counter."""
    with seeded_globals(stream(0, "filters", "weights")):
        net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SHAPE[0] * SHAPE[1] * SHAPE[2], HIDDEN),
            nn.BatchNorm1d(HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, CLASSES),
        )
    return Model.of(net, ImageSpec(SHAPE, mean=(0.5,), std=(0.25,)))


def usual_batch(model: Model, examples: int, seed: int = 0) -> Batch:
    """Embedded photographs of the model's size, with labels that are drawn.

    Raises:
        BadInput: the model takes no square pictures of 1 or 3 channels, of which the embedded ones are; or there are
            not so many.
    """
    shape = model.input.encoded_shape
    if not isinstance(model.input, ImageSpec) or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise BadInput(
            f"the model takes inputs of shape {tuple(shape)}; the embedded photographs are squares of 1 or 3 channels,"
            " so give examples of your own"
        )
    inputs = load("photos", size=shape[-1], indices=f"0:{examples}").batch.inputs
    inputs = inputs.mean(1, keepdim=True) if shape[0] == 1 else inputs
    with torch.no_grad():
        z = model.in_eval_mode().input.encode(inputs.to(model.like))
        classes = model.in_eval_mode().logits(model.params, z).shape[-1]
    return Batch(inputs, torch.randint(classes, (examples,), generator=stream(seed, "filters", "labels")))


def offer_of(model: Model, batch: Batch, seed: int = 0) -> Offer:
    """The update of one step of learning rate 1, and a known change of every buffer.

    Where the model has no buffer of whole numbers, one is added.
    """
    update = local_update(model, batch, FedSGD())
    rng = stream(seed, "filters", "buffers")
    moved = {name: _moved(value, rng) for name, value in model.buffers.items()}
    received = {**model.params, **model.buffers}
    if all(v.is_floating_point() for v in moved.values()):
        moved[ADDED] = torch.tensor(BATCHES, device=model.like.device)
        received[ADDED] = torch.zeros_like(moved[ADDED])
    change = {**{k: -v for k, v in update.values.items()}, **moved}
    return Offer(change, {k: received[k] for k in change}, 1, model, batch)


def _moved(value: Tensor, rng: torch.Generator) -> Tensor:
    if value.is_floating_point():
        return MOVED * randn(tuple(value.shape), rng, value)
    return torch.ones_like(value) if value.dtype == torch.bool else torch.full_like(value, BATCHES)


def whole_numbers(change: Params) -> list[str]:
    """Names of tensors that hold no floating numbers."""
    return [n for n, v in change.items() if not v.is_floating_point()]


def without(offer: Offer, names: Sequence[str]) -> Offer:
    """The offer without some of its tensors."""
    left = {n: v for n, v in offer.change.items() if n not in names}
    return replace(offer, change=left, received={n: offer.received[n] for n in left})


def scaled(change: Params, factor: float) -> Params:
    """The change times a factor; whole numbers stay as they are."""
    return {k: v * factor if v.is_floating_point() else v for k, v in change.items()}


def kind_of(name: str, value: Tensor, model: Model) -> str:
    """What a tensor is: see `Fate.kind`."""
    if name == ADDED:
        return "added"
    if name in model.params:
        return "parameter"
    return "buffer" if value.is_floating_point() else "integers"
