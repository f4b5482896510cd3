"""Examples that stand alone in a difference of two rows of a gradient: the check that knows no method.

Whoever reads single examples off an update must find something in it that one example alone gives. Beside single rows
(`lone_examples`) the simplest such thing is the difference of two rows that else are multiples of each other: bins of
imprints of every kind, whatever function they are of, in whatever order, place and scale (Fowl et al., "Robbing the
Fed", ICLR 2022, arXiv:2110.13057, is one). Nothing is changed and no attack is run; only the gradients that the
client's own examples give are looked at.
"""

from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.gradients.singly import singles, tables
from fedspill.inversion.gradients.telling import LEAST_COMMON, Told, told_by_pairs
from fedspill.inversion.network.weights import head_weight

NAME = "isolated_gradients"
PRUNED = 0.3
"""Share of a network's weights that are 0 from which on it counts as pruned."""


@dataclass(frozen=True)
class IsolatedGradients:
    """Finds parameters of which differences of two rows hold single examples, for many of the examples.

    The head is passed over, whose rows differ by the examples of their classes, and so are embeddings. Where the
    gradients by the logits are multiples of up to three directions (as of examples of three classes), rows of any
    network are alike, and the finding is a note. So it is where the network is pruned: units that hand on to one unit
    alone are alike, and their rows differ by single examples, which a server can read as well as bins.

    Attributes:
        share: of the examples, those isolated, from which on a parameter is reported.
        rows: at the least so many take part.
        dominance: in the difference the one example is so many times what is left of all others.
        most: rows that are compared with each other, the ones with the largest gradients.
        pulls: independent directions of the gradients by the logits, below which it is a note; 4 at the least. One that
            is weaker than the strongest by `dominance` is none.

    Raises:
        BadInput: a field out of range.
    """

    share: float = 0.25
    rows: int = 4
    dominance: float = 1000.0
    most: int = 1024
    pulls: int = 4

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and self.rows >= 2 and self.dominance > 1 and self.most >= 2 and self.pulls >= 1):
            raise BadInput(
                f"share={self.share} must lie above 0 and at most at 1, rows={self.rows} and most={self.most} from 2,"
                f" dominance={self.dominance} above 1, pulls={self.pulls} from 1"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each such parameter; none without own data, or with too few examples.

        Raises:
            BadInput: the network cannot be run on the client's data.
        """
        seen = singles(incoming)
        if seen is None or len(seen) <= LEAST_COMMON:
            return []
        passed_over = tables(incoming.model) | {head_weight(incoming.model)}
        names = [name for name in seen.norms if incoming.model.params[name].ndim > 1 and name not in passed_over]
        pulls = int(torch.linalg.matrix_rank(seen.slopes, rtol=1 / self.dominance))
        slopes = seen.slopes if pulls >= max(self.pulls, LEAST_COMMON) else None
        told = ((name, told_by_pairs(seen.even(name), slopes, self.dominance, self.most)) for name in names)
        excuse = "few_directions" if slopes is None else "pruned" if is_pruned(incoming.model) else ""
        return [self._finding(name, t, len(seen), pulls, excuse) for name, t in told if self._is_much(t, len(seen))]

    def _is_much(self, told: Told, count: int) -> bool:
        return told.rows >= self.rows and int(told.examples.sum()) >= max(2, self.share * count)

    def _finding(self, name: str, told: Told, count: int, pulls: int, excuse: str) -> Finding:
        examples = int(told.examples.sum())
        return Finding(
            check=NAME,
            where=name,
            severity=0.4 if excuse else 0.9,
            evidence={
                "isolated_examples": float(examples),
                "examples": float(count),
                "rows": float(told.rows),
                "directions_of_the_loss": float(pulls),
            },
            explanation=f"Differences of two rows of this gradient hold {examples} of {count} examples alone, by"
            f" {told.rows} rows that else are multiples of each other, as of bins.",
            rule=excuse,
            reads=f"The server subtracts such rows from each other and has what the layer was given for {examples} of"
            f" these {count} examples, whoever else is in the batch.",
            advice="Do not send an update of this model; ask the server how this layer was made.",
        )


def is_pruned(model: Model) -> bool:
    """Whether so many of the weights are 0 that units which hand on to one unit alone are no rarity."""
    weights = [value for value in model.params.values() if value.ndim > 1]
    return sum(int((w == 0).sum()) for w in weights) >= PRUNED * sum(w.numel() for w in weights) > 0


CARD: Card[Check] = Card(
    title="Examples isolated in a gradient",
    paper="fedspill; Fowl et al., ICLR 2022, arXiv:2110.13057, for the bins that it generalises",
    summary="Reports parameters of whose gradient the difference of two rows holds one of the client's examples alone.",
    presets={"paper": IsolatedGradients(), "quick": IsolatedGradients(most=256)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
    own_data=True,
)
