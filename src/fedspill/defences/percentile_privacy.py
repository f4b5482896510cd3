"""Percentile privacy as NVIDIA FLARE ships it: a heuristic, no guarantee.

Shokri and Shmatikov, "Privacy-Preserving Deep Learning", CCS 2015, section 5: share the largest values only, truncated.
NVFlare's filter `PercentilePrivacy` adds none of that paper's noise, so that no differential privacy follows.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.local_training.update import FedAvg
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Update
from fedspill.privacy.release import Step


@dataclass(frozen=True)
class PercentilePrivacy:
    """Sets values whose size per local step is below a percentile of all to 0, and cuts the others to +-gamma.

    A heuristic without any guarantee. Numbers without a shape, and BatchNorm statistics, pass as they are.

    Attributes:
        percentile: of the absolute values of the whole update, in [0, 100]; those below it are not sent.
        gamma: the largest absolute value of what is sent per local step, in the update's unit.

    Raises:
        BadInput: a value out of range; NVFlare's filter then passes the update on as it is.
    """

    percentile: float = 10.0
    gamma: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.percentile <= 100:
            raise BadInput(f"percentile={self.percentile} must be from 0 to 100")
        if not self.gamma > 0:
            raise BadInput(f"gamma={self.gamma} must be above 0")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven: there is no noise."""
        return None

    def step(self, num_examples: int) -> Step:
        """Post-processing: it looks at nothing but the update."""
        return Step()

    def known(self, model: Model) -> KnownDefence:
        """What is 0 was not sent, and what is largest may have been larger."""
        return KnownDefence(("percentile_privacy",), survivors=self.percentile > 0, cut=True)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        training = context.training
        steps = training.local_steps(len(context.batch)) if isinstance(training, FedAvg) else 1
        sizes = np.concatenate([(v.abs() / steps).flatten().cpu().double().numpy() for v in update.values.values()])
        cutoff = float(np.percentile(sizes, self.percentile))
        return replace(update, values={k: self._cut(v, cutoff, steps) for k, v in update.values.items()})

    def _cut(self, value: Tensor, cutoff: float, steps: int) -> Tensor:
        if not value.ndim:
            return value
        each = value / steps
        return each.where(each.abs().double() >= cutoff, 0.0).clamp(-self.gamma, self.gamma) * steps


CARD: Card[Defence] = Card(
    title="Percentile privacy",
    paper="NVFlare's filter PercentilePrivacy; after Shokri and Shmatikov, CCS 2015",
    summary="Sends the largest values only, cut to a bound, as NVFlare ships it; a heuristic, no guarantee.",
    presets={
        "paper": PercentilePrivacy(),
        "quick": PercentilePrivacy(),
        "strong": PercentilePrivacy(percentile=90.0),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
