"""A layer that treats all its inputs alike: what stands behind an imprint, so that every bin answers the same.

Fowl et al., "Robbing the Fed", ICLR 2022, arXiv:2110.13057, appendix B; LOKI and Scale-MIA have it, too.
"""

from dataclasses import dataclass

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, layer_weights, some_columns, spread_rows, unit_rows

NAME = "equal_columns"


@dataclass(frozen=True)
class EqualColumns:
    """Finds linear layers most of whose columns are multiples of one.

    Attributes:
        cosine: columns whose cosine is above it, in absolute value, count as parallel.
        share: of the columns that must be parallel to one.
        shortest: columns of fewer numbers are passed over: those of two classes are always parallel after training.
        fewest: columns that a layer must have.
        most: columns that are compared, and numbers that are looked at of a longer column.

    Raises:
        BadInput: a field out of range.
    """

    cosine: float = 0.98
    share: float = 0.3
    shortest: int = 6
    fewest: int = 8
    most: int = 1024

    def __post_init__(self) -> None:
        if not (0 < self.cosine < 1 and 0 < self.share < 1 and self.shortest >= 2 and 2 <= self.fewest <= self.most):
            raise BadInput(
                f"cosine={self.cosine} and share={self.share} must lie between 0 and 1, shortest={self.shortest} from 2"
                f" and fewest={self.fewest} from 2 to most={self.most}"
            )

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for each such layer."""
        layers = layer_weights(incoming.model, incoming.misfit.tensors)
        found = (self._layer(weights) for weights in layers if weights.kernel == 1 and not weights.embedding)
        return [finding for finding in found if finding is not None]

    def _layer(self, weights: Weights) -> Finding | None:
        if len(weights.rows) < self.shortest or weights.rows.shape[1] < self.fewest:
            return None
        columns = unit_rows(some_columns(spread_rows(weights.rows.T, self.most), self.most))
        if len(columns) < self.fewest:
            return None
        largest = int((columns @ columns.T).abs().gt(self.cosine).sum(1).max())
        if largest < max(self.share * len(columns), self.fewest):
            return None
        return Finding(
            check=NAME,
            where=weights.name,
            severity=0.8,
            evidence={"parallel_columns": float(largest), "columns": float(len(columns)), "cosine": self.cosine},
            explanation=f"{largest} of {len(columns)} columns are multiples of one: the layer answers the same"
            " whichever of its inputs is on, as what stands behind an imprint does.",
            reads="Every bin of the layer before it then has the same derivative, so that a server can subtract"
            " neighbouring bins and read single examples of a client.",
            advice="Do not train on it; look at the layer before this one, and ask the server where both come from.",
        )


CARD: Card[Check] = Card(
    title="Equal columns",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, appendix B",
    summary="Reports linear layers that treat all their inputs alike, as the layer behind an imprint does.",
    presets={"paper": EqualColumns(), "quick": EqualColumns(most=256)},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
