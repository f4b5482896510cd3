"""Rows whose weights add up to the same: trap weights, and rows from which somebody took the mean.

Boenisch et al., "When the Curious Abandon Honesty", EuroS&P 2023, arXiv:2112.02918, Algorithm 1: half of a row's
weights are negative, and the other half are the same numbers, positive and a little smaller. One row looks random; all
rows together do not, for the sum of a row, over its size, has a standard deviation of 1 wherever weights are random,
and more after training.
"""

from dataclasses import dataclass

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, head_weight, layer_weights, unit_rows

NAME = "balanced_rows"


@dataclass(frozen=True)
class BalancedRows:
    """Finds layers whose rows have nearly the same sum, over their size.

    The head is passed over: of a trained one the rows add up to 0 together, and so each nearly to the same.

    Attributes:
        spread: standard deviation of the sums below which a layer is reported; of random rows it is 1.
        fewest: rows that there must be.
        shortest: rows of fewer numbers are passed over.

    Raises:
        BadInput: a field out of range.
    """

    spread: float = 0.25
    fewest: int = 16
    shortest: int = 24

    def __post_init__(self) -> None:
        if not (0 < self.spread < 1 and self.fewest >= 4 and self.shortest >= 4):
            raise BadInput(
                f"spread={self.spread} must lie between 0 and 1, fewest={self.fewest} and"
                f" shortest={self.shortest} from 4"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each such layer."""
        head = head_weight(incoming.model)
        layers = layer_weights(incoming.model, incoming.misfit.tensors)
        found = (self._layer(w) for w in layers if w.name != head and not w.embedding)
        return [finding for finding in found if finding is not None]

    def _layer(self, weights: Weights) -> Finding | None:
        if weights.rows.shape[1] < self.shortest or len(weights.rows) < self.fewest:
            return None
        sums = unit_rows(weights.rows).sum(1)
        if len(sums) < self.fewest or float(sums.std()) >= self.spread:
            return None
        return Finding(
            check=NAME,
            where=weights.name,
            severity=0.8,
            evidence={"spread": float(sums.std()), "mean": float(sums.mean()), "rows": float(len(sums))},
            explanation=f"The weights of each of {len(sums)} rows add up to nearly the same (standard deviation"
            f" {float(sums.std()):.2g} of the row's size; 1 of random rows), as those of trap weights do.",
            reads="Trap weights fire for few of a client's examples; where a row fires for one, its gradient is that"
            " example, copied exactly, and the server has it.",
            advice="Do not train on it; ask the server how this layer was initialised. Initialisations that take each"
            " row's mean away look the same: agree on that beforehand.",
        )


CARD: Card[Check] = Card(
    title="Balanced rows: trap weights",
    paper="Boenisch et al., EuroS&P 2023, arXiv:2112.02918, Algorithm 1",
    summary="Reports layers whose rows all add up to nearly the same, as those of trap weights do.",
    presets={"paper": BalancedRows(), "quick": BalancedRows()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
