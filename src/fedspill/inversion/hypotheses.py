"""What a server that knows too little must guess before it can match gradients: how many examples, which labels,
how many local steps.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_update import LocalTraining
from fedspill.core.types import Update
from fedspill.inversion import labels as inference
from fedspill.inversion.matching import protocols


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
    labels: Int[Tensor, " n"] | None
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
    found = [
        Hypothesis(n, labels, training, method)
        for n in _counts(knowledge, unknowns)
        for labels, method in [_labels(update, knowledge, unknowns, n, rng, infer)]
        for training in trainings
    ]
    if not found:
        raise NotApplicable(
            f"none of the candidate numbers of examples {unknowns.examples} is a multiple of the"
            f" {knowledge.num_clients} clients"
        )
    return found


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
