"""A sub-model for every example of a batch: no two examples meet in one gradient, however large the batch.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients", NeurIPS 2020, arXiv:2003.14053, appendix A.1
(dishonest architectures).
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.per_example.bank import banked
from fedspill.inversion.per_example.reading import read_bank


@dataclass(frozen=True)
class SubModels:
    """Adds to the logits what a small linear model says that answers to the example at one place of the batch alone.

    The network itself is kept and answers nearly as before; each sub-model starts at zero.

    Attributes:
        slots: sub-models; a batch may hold as many examples, those beyond share with the first ones.
        rows: of each sub-model's linear layer, at least 2, whose agreement tells one example from several.
        gain: scales the input on its way to the sub-models; small, so that local training hardly moves the logits.
        counts: places go on from one mini-batch to the next, by a buffer that counts examples as BatchNorm counts
            batches, so that examples of several local steps have sub-models of their own as well (not in the paper).
    """

    slots: int = 64
    rows: int = 4
    gain: float = 0.01
    counts: bool = False

    def __post_init__(self) -> None:
        if self.slots < 1 or self.rows < 2 or not self.gain > 0:
            raise BadInput(
                f"slots={self.slots}, rows={self.rows}, gain={self.gain}: slots must be 1 or more, rows 2 or more, gain"
                " above 0"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The network with the sub-models beside it.

        Raises:
            NotApplicable: the network gives no logits (n, k).
        """
        sent = banked(model, self.slots, self.rows, self.gain, rng, counts=self.counts)
        return Tampered(sent, SubModelsReadout(self.gain))


@dataclass(frozen=True)
class SubModelsReadout:
    """Reads each sub-model's input off its own gradient.

    Attributes:
        gain: that of the tampering.
    """

    gain: float

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Every example that had a sub-model of its own, exactly.

        Raises:
            NotApplicable: the sub-models were not trained, or the clients' optimiser leaves no ratios.
        """
        return read_bank(update, knowledge, self.gain)


CARD: Card[Tampering] = Card(
    title="Sub-models per example",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053, appendix A.1",
    summary="Gives every example of a batch a sub-model of its own and reads each off its own gradient.",
    presets={"paper": SubModels(), "quick": SubModels(), "strong": SubModels(slots=256, counts=True)},
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec}),
)
