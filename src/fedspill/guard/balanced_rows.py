"""Rows whose weights add up to the same: trap weights, and rows from which somebody took the mean.

Boenisch et al., "When the Curious Abandon Honesty", EuroS&P 2023, arXiv:2112.02918, Algorithm 1: half of a row's
weights are negative, and the other half are the same numbers, positive and a little smaller. One row looks random; all
rows together do not, for the sum of a row, over its size, has a standard deviation of 1 wherever weights are random,
and more after training. Among ordinary rows they stand out as a crowd: of random sums 4 % lie within 0.1 of each other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, head_weight, layer_weights, unit_rows

NAME = "balanced_rows"
WINDOW = 0.1
"""Within so much of each other sums are nearly the same."""
READS = (
    "Trap weights fire for few of a client's examples; where a row fires for one, its gradient is that example, copied"
    " exactly, and the server has it."
)
ADVICE = (
    "Do not train on it; ask the server how this layer was initialised. Initialisations that take each row's mean away"
    " look the same: agree on that beforehand."
)


def crowd(sums: Float[Tensor, " m"]) -> int:
    """Most sums that lie within `WINDOW` of each other."""
    ordered = sums.sort().values
    ends = torch.searchsorted(ordered, ordered + WINDOW, right=True)
    return int((ends - torch.arange(len(ordered), device=ends.device)).max())


@dataclass(frozen=True)
class BalancedRows:
    """Finds layers whose rows, or many of whose rows, have nearly the same sum, over their size.

    The head is passed over: of a trained one the rows add up to 0 together, and so each nearly to the same.

    Attributes:
        spread: standard deviation of the sums below which a layer is reported; of random rows it is 1.
        share: of the rows, those of nearly the same sum from which on a layer is reported. Trained and random layers
            with so many such rows have up to 0.12.
        fewest: rows that there must be, and that must be nearly the same.
        shortest: rows of fewer numbers are passed over.

    Raises:
        BadInput: a field out of range.
    """

    spread: float = 0.25
    share: float = 0.25
    fewest: int = 16
    shortest: int = 24

    def __post_init__(self) -> None:
        if not (0 < self.spread < 1 and 0 < self.share <= 1 and self.fewest >= 4 and self.shortest >= 4):
            raise BadInput(
                f"spread={self.spread} and share={self.share} must lie between 0 and 1, fewest={self.fewest} and"
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
        if len(sums) < self.fewest:
            return None
        if float(sums.std()) < self.spread:
            return _whole(weights.name, sums)
        filled = sums[(weights.rows[weights.rows.any(1)] != 0).sum(1) >= self.shortest]  # of one number all sums are 1
        count = crowd(filled) if len(filled) else 0
        return _some(weights.name, sums, count) if count >= max(self.fewest, self.share * len(sums)) else None


def _whole(name: str, sums: Float[Tensor, " m"]) -> Finding:
    seen = (
        f"The weights of each of {len(sums)} rows add up to nearly the same (standard deviation"
        f" {float(sums.std()):.2g} of the row's size; 1 of random rows), as those of trap weights do."
    )
    return Finding(NAME, name, 0.8, _evidence(sums), seen, reads=READS, advice=ADVICE)


def _some(name: str, sums: Float[Tensor, " m"], count: int) -> Finding:
    seen = (
        f"The weights of {count} of {len(sums)} rows add up to the same within {WINDOW} of the row's size, as those of"
        " trap weights among ordinary rows do; of random rows 4 % would."
    )
    evidence = {**_evidence(sums), "alike": float(count)}
    return Finding(NAME, name, 0.8, evidence, seen, rule="some", reads=READS, advice=ADVICE)


def _evidence(sums: Float[Tensor, " m"]) -> dict[str, float]:
    return {"spread": float(sums.std()), "mean": float(sums.mean()), "rows": float(len(sums))}


CARD: Card[Check] = Card(
    title="Balanced rows: trap weights",
    paper="Boenisch et al., EuroS&P 2023, arXiv:2112.02918, Algorithm 1",
    summary="Reports layers whose rows all add up to nearly the same, as those of trap weights do.",
    presets={"paper": BalancedRows(), "quick": BalancedRows()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
