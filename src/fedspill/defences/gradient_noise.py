"""Noise on every value of the update, without clipping: nothing is proven of it.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057, Fig. 20 (Laplace); Zhu et al., "Deep Leakage from
Gradients", NeurIPS 2019, arXiv:1906.08935, section 5.1 (Gaussian and Laplace).
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Update
from fedspill.privacy.mechanisms import Distribution, noised


@dataclass(frozen=True)
class GradientNoise:
    """Adds noise to the update.

    Attributes:
        sigma: standard deviation of the noise, in the update's unit, or as a share of its root mean square.
        relative: whether it is such a share.
        distribution: law of the noise.

    Raises:
        BadInput: a negative sigma.
    """

    sigma: float = 1e-3
    relative: bool = False
    distribution: Distribution = "laplace"

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise BadInput(f"sigma={self.sigma} must be at least 0")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven: without clipping one example may move the update by any amount."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """How large the noise is."""
        sigma = self.sigma or None
        names = ("gradient_noise",)
        return KnownDefence(names, noise_share=sigma) if self.relative else KnownDefence(names, noise=sigma)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        return self.noised(update, rng)

    def noised(self, update: Update, rng: torch.Generator) -> Update:
        """The update with noise."""
        size = sum(v.numel() for v in update.values.values())
        unit = update.norm() / size**0.5 if self.relative else 1.0
        return noised(update, self.sigma * unit, self.distribution, rng)


CARD: Card[Defence] = Card(
    title="Gradient noise",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, Fig. 20; Zhu et al., NeurIPS 2019, arXiv:1906.08935",
    summary="Adds Laplace or Gaussian noise to every value of the update; no proven privacy.",
    presets={
        "paper": GradientNoise(),
        "quick": GradientNoise(),
        "strong": GradientNoise(sigma=0.1),
        "relative": GradientNoise(relative=True),
        "dlg": GradientNoise(sigma=0.1, distribution="gaussian"),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
