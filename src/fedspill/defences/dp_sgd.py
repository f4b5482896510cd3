"""DP-SGD on a client: every example's gradient is clipped, and the sum gets Gaussian noise.

Abadi et al., "Deep Learning with Differential Privacy", CCS 2016, arXiv:1607.00133, Algorithm 1. The cost is that of
one release by the analytic Gaussian mechanism, without amplification: a server sees whom it asked.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Params, Update
from fedspill.privacy.gaussian import analytic_epsilon
from fedspill.privacy.mechanisms import noised
from fedspill.privacy.release import Step

Relation = Literal["add-or-remove", "replacement"]
UNITS: dict[Relation, str] = {
    "add-or-remove": "a client's examples with and without one of them (add or remove: 1 x clip apart in the sum)",
    "replacement": "a client's examples with one of them replaced (2 x clip apart in the sum)",
}


@dataclass(frozen=True)
class DPSGD:
    """Clips the gradient g of every example to `clip`, g min(1, C / ||g||), and adds noise once to their sum.

    What is sent is the mean, so that the noise on it is `noise_multiplier` * `clip` / n; n is not hidden. BatchNorm
    statistics, which no noise covers, are not sent. For clients that send one gradient (FedSGD). The noise is drawn in
    float32 from a seeded stream: right for an audit, not for a release (Mironov 2012).

    Attributes:
        clip: C, the longest Euclidean norm of one example's gradient over all parameters, in the gradient's unit.
        noise_multiplier: standard deviation of the noise on the sum over C, as Opacus counts; 0 only clips, and then
            nothing is proven.
        delta: the failure probability of one release, in (0, 1).
        relation: which pairs of data the cost is about.

    Raises:
        BadInput: a value out of range.
    """

    clip: float = 1.0
    noise_multiplier: float = 1.0
    delta: float = 1e-5
    relation: Relation = "add-or-remove"

    def __post_init__(self) -> None:
        if not 0 < self.clip < float("inf"):
            raise BadInput(f"clip={self.clip} must be above 0 and finite")
        if not 0 <= self.noise_multiplier < float("inf"):
            raise BadInput(f"noise_multiplier={self.noise_multiplier} must be at least 0 and finite")
        if not 0 < self.delta < 1:
            raise BadInput(f"delta={self.delta} must lie between 0 and 1")
        if self.relation not in UNITS:
            raise BadInput(f"relation={self.relation!r} must be one of {', '.join(UNITS)}")

    def stages(self) -> Stages:
        """Clips examples, and protects their mean."""
        return Stages(per_example=self._clipped, protect=self._noised)

    def cost(self) -> PrivacyCost | None:
        """Of one release; its noise is that on the sum over the examples. None without noise."""
        if not self.noise_multiplier:
            return None
        sigma = self.noise_multiplier / (2 if self.relation == "replacement" else 1)
        return PrivacyCost(analytic_epsilon(sigma, self.delta), self.delta, UNITS[self.relation], self._of_sum())

    def step(self, num_examples: int) -> Step:
        """Clips every example and adds noise once to their sum; what is sent is the mean."""
        return Step(
            norm=self.clip / num_examples,
            noise=self._of_sum() / num_examples,
            unit="example",
            relation=self.relation,
            delta=self.delta,
            buffers=False,
        )

    def known(self, model: Model) -> KnownDefence:
        """How large the noise is; of how each example was scaled nothing."""
        return KnownDefence(("dp_sgd",), noise_of_sum=self._of_sum() or None, scale_free=True, per_example=True)

    def _of_sum(self) -> float:
        return self.noise_multiplier * self.clip

    def _clipped(self, gradients: Params, rng: torch.Generator) -> Params:
        norms = torch.stack([g.double().flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        if not bool(norms.isfinite().all()):
            raise BadInput("a gradient holds NaN or infinite values, which cannot be clipped; nothing is sent")
        scale = (self.clip / norms.clamp_min(1e-300)).clamp_max(1.0)
        return {k: g * _beside(scale, g) for k, g in gradients.items()}

    def _noised(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        sent = replace(update, buffers=None)
        return noised(sent, self._of_sum() / len(context.batch), "gaussian", rng) if self.noise_multiplier else sent


def _beside(scale: Tensor, gradient: Tensor) -> Tensor:
    return scale.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1))


CARD: Card[Defence] = Card(
    title="DP-SGD",
    paper="Abadi et al., CCS 2016, arXiv:1607.00133; Balle and Wang, ICML 2018, arXiv:1805.06530",
    summary="Clips every example's gradient and adds Gaussian noise once to their sum; protects each example.",
    presets={
        "paper": DPSGD(),
        "quick": DPSGD(),
        "strong": DPSGD(noise_multiplier=4.0),
        "weak": DPSGD(noise_multiplier=0.01),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
