"""Clipping of the whole update to a Euclidean norm. On its own it hides nothing: it changes the scale alone.

Dwork and Roth, "The Algorithmic Foundations of Differential Privacy", 2014; for deep learning Abadi et al., "Deep
Learning with Differential Privacy", CCS 2016, arXiv:1607.00133.
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Update
from fedspill.privacy.mechanisms import clipped


@dataclass(frozen=True)
class Clipping:
    """Sends no update longer than `norm`.

    Attributes:
        norm: C, the longest Euclidean norm of the whole update, in the update's unit.

    Raises:
        BadInput: a norm that is not above 0.
    """

    norm: float = 1.0

    def __post_init__(self) -> None:
        if not self.norm > 0:
            raise BadInput(f"norm={self.norm} must be above 0")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """The update's direction is as it was."""
        return KnownDefence(names=("clipping",), scale_free=True)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        return clipped(update, self.norm)


CARD: Card[Defence] = Card(
    title="Clipping",
    paper="Abadi et al., CCS 2016, arXiv:1607.00133",
    summary="Scales the whole update down to a norm; no privacy by itself.",
    presets={"paper": Clipping(), "quick": Clipping()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
