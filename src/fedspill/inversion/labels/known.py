"""The labels behind an update as the readouts need them: granted, else inferred."""

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update
from fedspill.inversion.labels import methods as inference


@dataclass(frozen=True)
class Labels:
    """Labels of the private examples; `method` is None if they were granted."""

    values: Int[Tensor, " n"]
    method: str | None


def known_labels(update: Update, knowledge: ServerKnowledge, rng: torch.Generator, count: int | None) -> Labels | None:
    """Granted labels, else inferred ones, else None; None also for targets of which no readout makes use.

    These are next tokens, several labels per example, numbers, and one output's label where it is held as a number.
    """
    if knowledge.labels is not None:
        classes = knowledge.labels.ndim == 1 and not knowledge.labels.is_floating_point()
        return Labels(knowledge.labels, None) if classes else None
    if count is None:
        return None
    try:
        method = inference.default_method(update, knowledge, count)
        return Labels(inference.infer(method, update, knowledge, count, rng), method)
    except NotApplicable:
        return None
