"""Gating: a client attacks its own update before it sends it, and withholds one that gives too much away.

Not in a paper. What no attack of the client's reads may still be read by another: a heuristic, no guarantee. That an
update was withheld is told, too.
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.knowledge import KnownDefence
from fedspill.core.model import Model
from fedspill.core.roles import Card, ClientContext, Defence, PrivacyCost, Stages, UpdateExposure
from fedspill.core.types import Update


@dataclass(frozen=True)
class Gating:
    """Withholds an update of which one attack alone rebuilds more than a share of the client's examples.

    What an update gives away is measured by whoever runs the client and handed in by `measuring`; an audit does so with
    attacks that are told the number of examples and no labels. Where nothing was measured, nothing is sent. It looks at
    the update as the defences before it left it.

    Attributes:
        most: share of the client's examples that may be rebuilt, in [0, 1].
        attacks: by which it is measured; names of the catalogue.

    Raises:
        BadInput: a share out of range.
    """

    most: float = 0.0
    attacks: tuple[str, ...] = ("linear_layer", "logistic_regression")

    def __post_init__(self) -> None:
        if not 0 <= self.most <= 1:
            raise BadInput(f"most={self.most} must be from 0 to 1")

    def measuring(self, exposure: UpdateExposure) -> Defence:
        """The defence that goes by this measurement."""
        return _Measured(self, exposure)

    def stages(self) -> Stages:
        """Withholds every update, as nothing was measured."""
        return Stages(protect=lambda update, context, rng: None)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """The update is as it was."""
        return KnownDefence(("gating",))


@dataclass(frozen=True)
class _Measured:
    gate: Gating
    exposure: UpdateExposure

    def stages(self) -> Stages:
        """Looks at the update."""
        return Stages(protect=self._protect)

    def cost(self) -> PrivacyCost | None:
        """Nothing is proven."""
        return None

    def known(self, model: Model) -> KnownDefence:
        """The update is as it was."""
        return self.gate.known(model)

    def _protect(self, update: Update, context: ClientContext, rng: torch.Generator) -> Update | None:
        exposed = self.exposure(update, context, self.gate.attacks)
        read = [float(e.read.double().mean()) for e in exposed if not e.failed]
        return update if read and max(read) <= self.gate.most else None


CARD: Card[Defence] = Card(
    title="Gating",
    paper="none",
    summary="Withholds an update that the client's own attacks read; a heuristic, no guarantee.",
    presets={"paper": Gating(), "quick": Gating(), "strong": Gating(), "half": Gating(most=0.5)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
