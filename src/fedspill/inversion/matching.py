"""Gradient matching: how far the update of a candidate is from the update that was observed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.types import Params, Update, UpdateKind

Distance = Callable[[Params, Params], Float[Tensor, ""]]
DistanceName = Literal["cosine", "squared"]

SMALLEST = 1e-30


def squared_distance(guess: Params, observed: Params) -> Float[Tensor, ""]:
    """Sum of squared differences over all parameters (DLG, eq. 4; Inverting Gradients, eq. 3)."""
    return torch.stack([(guess[k] - v).pow(2).sum() for k, v in observed.items()]).sum()


def cosine_distance(guess: Params, observed: Params) -> Float[Tensor, ""]:
    """1 - cosine of the angle between all parameters taken as one vector, in [0, 2] (Inverting Gradients, eq. 4)."""
    dot = torch.stack([(guess[k] * v).sum() for k, v in observed.items()]).sum()
    guessed = torch.stack([guess[k].pow(2).sum() for k in observed]).sum()
    wanted = torch.stack([v.pow(2).sum() for v in observed.values()]).sum()
    # A candidate whose gradient is 0 (dead units) is at distance 1, with a gradient of 0 and not of NaN.
    return 1 - dot / (guessed.clamp_min(SMALLEST).sqrt() * wanted.clamp_min(SMALLEST).sqrt())


DISTANCES: dict[DistanceName, Distance] = {"cosine": cosine_distance, "squared": squared_distance}


@dataclass(frozen=True)
class Matching:
    """The distance between an observed update and that of a candidate, under an assumed protocol."""

    model: Model
    observed: Update
    training: LocalTraining
    clients: int
    distance: Distance

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable in `z`, and in `labels` where these are class probabilities."""
        guess = aggregate_update(self.model, z, labels, self.training, self.clients, create_graph=True)
        return self.distance(guess.values, self.observed.values) * self._scale(len(z))

    def _scale(self, n: int) -> float:
        """Squared distances of deltas are brought to the scale of gradients, for which tolerances are stated."""
        if isinstance(self.training, FedSGD) or self.distance is not squared_distance:
            return 1.0
        return (self.training.lr * self.training.local_steps(n // self.clients)) ** -2


def check_observed(update: Update, model: Model) -> Update:
    """The update on the model's device, in the model's dtype.

    Raises:
        BadInput: it holds names or shapes that the model lacks, values that are not finite, or nothing.
        NotApplicable: every value is 0, so there is nothing to match.
    """
    if not update.values:
        raise BadInput("the update holds no parameter; at least one is needed")
    for name, value in update.values.items():
        if name not in model.params:
            raise BadInput(f"the update holds {name!r}, which the model does not have")
        if value.shape != model.params[name].shape:
            raise BadInput(
                f"the update's {name!r} has shape {tuple(value.shape)}, the model's {tuple(model.params[name].shape)}"
            )
        if not value.isfinite().all():
            raise BadInput(f"the update's {name!r} holds NaN or infinite values; finite numbers are needed")
    if update.norm() == 0:
        raise NotApplicable("the update is exactly 0: there is nothing to invert")
    return update.to(model.like)


def protocols(
    update: Update, knowledge: ServerKnowledge, epochs: tuple[int, ...], assumed_lr: float
) -> list[LocalTraining]:
    """The local training to assume: the granted one, or for an unknown number of local steps one per candidate.

    A gradient needs no grant: it was computed by FedSGD. The parameters that were trained are those that the
    update holds.

    Args:
        epochs: candidates for the number of full-batch local steps (Inverting Gradients, appendix B.1, footnote).
        assumed_lr: the local step size to assume where it was not granted; the cosine hardly depends on it.
    """
    trained = tuple(update.values)
    known = knowledge.local_training
    if update.kind is UpdateKind.GRADIENT:
        return [FedSGD(trainable=trained)]
    if isinstance(known, FedAvg):
        return [replace(known, trainable=trained)]
    if known is not None:
        raise BadInput("the update is a delta, but the local training was said to be FedSGD, which sends gradients")
    return [FedAvg(epochs=e, lr=assumed_lr, trainable=trained) for e in epochs]
