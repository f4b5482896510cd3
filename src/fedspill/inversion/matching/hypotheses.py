"""What a server that knows too little must guess before it can match gradients: how many examples, which labels,
how many local steps.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.model import Model
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.labels import methods as inference


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


@dataclass(frozen=True)
class Unknowns:
    """How to guess what was not granted.

    Attributes:
        examples: candidates for an unknown number of examples.
        epochs: candidates for an unknown number of full-batch local steps.
        assumed_lr: local step size to assume where the protocol was not granted.
        label_method: how to infer labels that were not granted; None chooses by the number of examples.
    """

    examples: tuple[int, ...] = (1, 2, 3, 4)
    epochs: tuple[int, ...] = (1, 2, 3, 5)
    assumed_lr: float = 1e-2
    label_method: inference.LabelMethod | None = None

    def __post_init__(self) -> None:
        if min((*self.examples, *self.epochs), default=0) < 1 or not self.examples or not self.epochs:
            raise BadInput(
                f"candidates examples={self.examples}, epochs={self.epochs}: numbers of at least 1 are needed"
            )


@dataclass(frozen=True)
class Hypothesis:
    """One guess of what the clients held; `labels` of None leaves them to the search.

    Attributes:
        num_examples: n, over all clients.
    """

    num_examples: int
    labels: Int[Tensor, " n ..."] | Float[Tensor, " n ..."] | None
    training: LocalTraining
    label_method: str

    def describe(self) -> str:
        """A few words for a note."""
        return f"n={self.num_examples}, {self.training}"


def hypotheses(
    update: Update,
    knowledge: ServerKnowledge,
    unknowns: Unknowns,
    rng: torch.Generator,
    *,
    infer: bool = True,
) -> list[Hypothesis]:
    """Every combination of what may be; a single one where all was granted.

    Args:
        infer: infer labels that were not granted; otherwise leave them to the search.
    """
    trainings = protocols(update, knowledge, unknowns.epochs, unknowns.assumed_lr)
    candidates = [
        Hypothesis(n, labels, training, method)
        for n in _counts(knowledge, unknowns)
        for labels, method in [_labels(update, knowledge, unknowns, n, rng, infer)]
        for training in trainings
    ]
    if not candidates:
        raise NotApplicable(
            f"none of the candidate numbers of examples {unknowns.examples} is a multiple of the"
            f" {knowledge.num_clients} clients"
        )
    return candidates


def _counts(knowledge: ServerKnowledge, unknowns: Unknowns) -> list[int]:
    if knowledge.labels is not None:
        return [len(knowledge.labels)]
    if knowledge.num_examples is not None:
        return [knowledge.num_examples]
    return [n for n in unknowns.examples if n % knowledge.num_clients == 0]


def _labels(
    update: Update,
    knowledge: ServerKnowledge,
    unknowns: Unknowns,
    n: int,
    rng: torch.Generator,
    infer: bool,
) -> tuple[Tensor | None, str]:
    if knowledge.labels is not None:
        return knowledge.labels, "granted"
    if not infer:
        return None, "joint"
    method = unknowns.label_method or inference.default_method(update, knowledge, n)
    return inference.infer(method, update, knowledge, n, rng), method


def notes_on(tried: list[Hypothesis], objectives: tuple[float, ...], kept: int) -> tuple[str, ...]:
    """What a reader must know about the guesses that were made."""
    if len(tried) == 1:
        return ()
    listed = "; ".join(f"{h.describe()}: {v:.4g}" for h, v in zip(tried, objectives, strict=True))
    return (
        f"{len(tried)} hypotheses about what was not granted were searched and the one with the lowest"
        f" objective kept ({tried[kept].describe()}). Lowest objectives: {listed}.",
    )
