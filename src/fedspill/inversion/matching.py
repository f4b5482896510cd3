"""Gradient matching: how far the update of a candidate is from the update that was observed."""

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import FedAvg, FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.inversion.distances import Distance, cotangent, squared_distance
from fedspill.inversion.evaluation import evaluated, product


@dataclass(frozen=True)
class Matching:
    """The distance between an observed update and that of a candidate, under an assumed protocol."""

    model: Model
    observed: Update
    training: LocalTraining
    clients: int
    distance: Distance

    def __call__(self, z: Float[Tensor, "n ..."], labels: Tensor) -> Float[Tensor, ""]:
        """Differentiable once in `z`, and in `labels` where these are class probabilities."""
        return evaluated(self.value_and_gradients, z, labels)

    def value_and_gradients(self, z: Tensor, labels: Tensor) -> tuple[Float[Tensor, ""], list[Tensor | None]]:
        """The distance, and its gradients with respect to those of the two that require one, in two phases.

        First the update of the candidate, then the gradient of the distance with respect to this update, in closed
        form, and one vector-Jacobian product. The weights' second derivatives are never computed.
        """
        wanted = [v for v in (z, labels) if v.requires_grad]
        guess = self._update(z, labels, create_graph=bool(wanted))
        value, direction, factor = cotangent(
            self.distance, {k: v.detach() for k, v in guess.items()}, self.observed.values
        )
        scale = self._scale(len(z))
        if not wanted:
            return value * scale, [None, None]
        found = iter(product([guess[k] for k in self.observed.values], direction, wanted))
        return value * scale, [next(found) * (factor * scale) if v.requires_grad else None for v in (z, labels)]

    def _update(self, z: Tensor, labels: Tensor, *, create_graph: bool) -> Params:
        return aggregate_update(self.model, z, labels, self.training, self.clients, create_graph=create_graph).values

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
