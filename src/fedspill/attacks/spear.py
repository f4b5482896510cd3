"""SPEAR: whole batches read from the first fully connected layer, by its gradient's rank and its ReLU's zeros.

Dimitrov, Baader, Müller, Vechev: "SPEAR: Exact Gradient Inversion of Batches in Federated Learning", NeurIPS 2024,
arXiv:2403.03945. Works where there are as many examples as classes, or more, and with two classes. The paper's random
samples, whose number doubles with each example, can be replaced by a search in polynomial time.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.low_rank.columns import Columns, Layer
from fedspill.inversion.low_rank.half_spaces import Turns, solved
from fedspill.inversion.low_rank.readout import read_batch
from fedspill.inversion.low_rank.sampling import sampled


@dataclass(frozen=True)
class Spear:
    """Factors the gradient, finds the matrix between its factors, and reads the inputs.

    Needs the gradient of the first layer, fully connected, with a bias and a ReLU, and fewer examples than about half
    of its units. Converged means that every example is certified: all derivatives vanish just where the layer's weights
    say that units are off, and the network gives them for the inputs that were read.

    Attributes:
        search: "sampling" (the paper) or "half_spaces": reweighted least squares over the rows that the layer's weights
            say are off, not in the paper.
        samples: of n - 1 rows each, at most; the paper's search needs about 2^n.
        turns: of the other search, at most; one eigenvector per example each.
        redraw: turns without a further column after which columns that are not settled are drawn anew.
        sparsity: share of the rows in which an example's derivative must vanish; an untrained ReLU's vanishes in about
            half, a trained one's may vanish in a tenth.
    """

    search: Literal["sampling", "half_spaces"] = "sampling"
    samples: int = 4_000_000
    turns: int = 400
    redraw: int = 60
    sparsity: float = 0.25

    def __post_init__(self) -> None:
        if self.samples < 1 or self.turns < 1 or self.redraw < 1:
            raise BadInput(f"samples={self.samples}, turns={self.turns}, redraw={self.redraw}: all must be at least 1")
        if not 0 < self.sparsity < 1:
            raise BadInput(f"sparsity={self.sparsity} must lie between 0 and 1")

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The examples, as many as the gradient's rank tells apart; those that are not certified may be mixtures.

        Raises:
            NotApplicable: the network does not begin with such a layer, what is needed was not sent, or the rank does
                not stand out from noise.
        """

        def search(at: Layer) -> Columns:
            total = self.samples if self.search == "sampling" else self.turns

            def tell(done: int, found: int) -> bool:
                watch.progress(done, total, 1 - found / at.factors.rank)
                return watch.out_of_time()

            if self.search == "sampling":
                return sampled(at, self.samples, rng, tell)
            return solved(at, Turns(self.turns, self.redraw), rng, tell)

        return read_batch(update, knowledge, self.sparsity, search)


_STRONG = Spear("half_spaces", turns=3000, sparsity=0.1)

CARD: Card[Attack] = Card(
    title="SPEAR",
    paper="Dimitrov et al., NeurIPS 2024, arXiv:2403.03945",
    summary="Reads whole batches off a first layer with a ReLU, by the rank and the zeros of its gradient.",
    presets={"paper": Spear(), "quick": replace(_STRONG, turns=400), "strong": _STRONG},
    accepts=frozenset({ImageSpec, TableSpec}),
)
