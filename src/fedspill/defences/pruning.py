"""Pruning: the smallest values of an update are not sent.

Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935, section 5.2; Lin et al., "Deep Gradient
Compression", ICLR 2018, arXiv:1712.01887. An attacker who matches only what was sent (Geiping et al. 2020; Jeon et al.
2021) undoes much of it: shares below 0.9 protect little (Huang et al. 2021, arXiv:2112.00059).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Params, Update
from fedspill.privacy.release import Step


@dataclass(frozen=True)
class Pruning:
    """Sets the smallest values to 0, exactly so many that at least one is left.

    Attributes:
        share: of the values that are set to 0, rounded down to whole values, in [0, 1).
        whole: the smallest of the whole update (top-k), else of each tensor by itself.

    Raises:
        BadInput: a share out of range.
    """

    share: float = 0.7
    whole: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadInput(f"share={self.share} must be at least 0 and below 1")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def step(self, num_examples: int) -> Step:
        """Post-processing: it looks at nothing but the update."""
        return Step()

    def known(self, model: Model) -> KnownDefence:
        """What is 0 was not sent."""
        return KnownDefence(("pruning",), survivors=self.share > 0)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        return replace(update, values=self._of_all(update.values) if self.whole else self._of_each(update.values))

    def _of_each(self, values: Params) -> Params:
        return {k: v * kept(v.flatten(), self.share).view_as(v) for k, v in values.items()}

    def _of_all(self, values: Params) -> Params:
        mask = kept(torch.cat([v.flatten() for v in values.values()]), self.share)
        parts = mask.split([v.numel() for v in values.values()])
        return {k: v * part.view_as(v) for (k, v), part in zip(values.items(), parts, strict=True)}


def kept(values: Tensor, share: float) -> Tensor:
    """True for all but the smallest of the values (n,); of equal ones the last are kept."""
    mask = torch.ones_like(values, dtype=torch.bool)
    mask[values.abs().argsort(stable=True)[: math.floor(share * len(values))]] = False
    return mask


CARD: Card[Defence] = Card(
    title="Gradient pruning",
    paper="Zhu et al., NeurIPS 2019, arXiv:1906.08935; Lin et al., ICLR 2018, arXiv:1712.01887",
    summary="Sends only the largest values of each tensor, or of the whole update (top-k); no proven privacy.",
    presets={
        "paper": Pruning(),
        "quick": Pruning(),
        "strong": Pruning(share=0.99),
        "top_k": Pruning(share=0.9, whole=True),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
