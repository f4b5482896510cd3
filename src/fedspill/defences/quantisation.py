"""Quantisation: an update's values are rounded to few levels, down to their signs alone.

Alistarh et al., "QSGD", NeurIPS 2017, arXiv:1610.02132 (stochastic rounding); Bernstein et al., "signSGD", ICML 2018,
arXiv:1802.04434 (signs); as a defence Zhu et al., "Deep Leakage from Gradients", NeurIPS 2019, arXiv:1906.08935,
section 5.2.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.rng import rand
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages
from fedspill.core.types import Update
from fedspill.privacy.release import Step

MOST_BITS = 16


@dataclass(frozen=True)
class Quantisation:
    """Rounds each tensor to 2^(bits - 1) - 1 equal steps on either side of 0, the last at its largest value.

    With one bit what is sent are signs, +1 and -1 (and 0 of what is 0), whatever the tensor's size.

    Attributes:
        bits: of one value, from 1 to 16.
        stochastic: round up or down at random, so that the mean is right; a sign is then +1 with probability
            (1 + v / max |v|) / 2.

    Raises:
        BadInput: bits out of range.
    """

    bits: int = 8
    stochastic: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= MOST_BITS:
            raise BadInput(f"bits={self.bits} must be from 1 to {MOST_BITS}")

    def stages(self) -> Stages:
        """Protects the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def step(self, num_examples: int) -> Step:
        """Post-processing: it looks at nothing but the update, whatever it draws."""
        return Step()

    def known(self, model: Model) -> KnownDefence:
        """How many bits a value has; one less where it may be off by a whole step instead of half of one."""
        if self.bits == 1:
            return KnownDefence(("quantisation",), signs=True, scale_free=True)
        return KnownDefence(("quantisation",), bits=max(2, self.bits - 1) if self.stochastic else self.bits)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update:
        return replace(update, values={k: self._rounded(v, rng) for k, v in update.values.items()})

    def _rounded(self, value: Tensor, rng: torch.Generator) -> Tensor:
        largest = value.abs().max() if value.numel() else value.sum()
        if self.bits == 1:
            return self._signs(value, largest, rng)
        step = largest / (2 ** (self.bits - 1) - 1)
        if not step > 0:
            return torch.zeros_like(value)
        scaled = value / step
        return step * ((scaled + rand(tuple(value.shape), rng, value)).floor() if self.stochastic else scaled.round())

    def _signs(self, value: Tensor, largest: Tensor, rng: torch.Generator) -> Tensor:
        if not self.stochastic or not largest > 0:
            return value.sign()
        up = rand(tuple(value.shape), rng, value) < (1 + value / largest) / 2
        return up.to(value.dtype) * 2 - 1


CARD: Card[Defence] = Card(
    title="Quantisation",
    paper="Alistarh et al., NeurIPS 2017, arXiv:1610.02132; Bernstein et al., ICML 2018, arXiv:1802.04434",
    summary="Rounds every tensor to 8 bits, or sends signs alone (1 bit); no proven privacy.",
    presets={
        "paper": Quantisation(),
        "quick": Quantisation(),
        "strong": Quantisation(bits=1),
        "sign": Quantisation(bits=1),
        "stochastic": Quantisation(stochastic=True),
    },
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
