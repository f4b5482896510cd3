"""Biases and rows that dwarf everything else in their layer, so that a unit is always on, or never.

Wen et al., "Fishing for User Data", ICML 2022, arXiv:2202.00580 (logits of all classes but one are moved away by large
biases); SEER and Scale-MIA scale rows alike.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Finding, Incoming
from fedspill.inversion.network.weights import Weights, layer_weights

NAME = "outlying_scales"
READS = (
    "A unit that is on for everyone, or for next to no one, shuts examples out of the update: what is left in it is of"
    " few of a client's examples, or of one, which the server then reads."
)
ADVICE = "Do not train on it; ask the server how this layer was trained."


@dataclass(frozen=True)
class OutlyingScales:
    """Finds biases far above what the layer's rows can answer, rows far above the others, and huge scales of norms.

    Attributes:
        bias: the largest bias over the largest sum of a row's absolute weights, from which on it is reported. At
            inputs of size 1 the row's answer cannot be larger than that sum.
        row: the largest row over the upper quartile of the rows' sizes, likewise.
        scale: of a norm or any other vector of parameters, the largest absolute number.

    Raises:
        BadInput: a field out of range.
    """

    bias: float = 20.0
    row: float = 100.0
    scale: float = 1000.0

    def __post_init__(self) -> None:
        if not min(self.bias, self.row, self.scale) > 1:
            raise BadInput(f"bias={self.bias}, row={self.row} and scale={self.scale} must be above 1")

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding for the biases, the rows or the scales of a layer."""
        vectors = dict(incoming.model.params)
        found = list[Finding]()
        for weights in layer_weights(incoming.model, incoming.misfit.tensors):
            if not weights.embedding:
                found += [*self._biases(weights), *self._rows(weights)]
            if weights.bias is not None:
                vectors.pop(weights.bias_name, None)
        return [*found, *(f for name, value in vectors.items() if value.ndim == 1 for f in self._scales(name, value))]

    def _biases(self, weights: Weights) -> Iterator[Finding]:
        if weights.bias is None or not bool(weights.rows.any()):
            return
        largest, reach = float(weights.bias.abs().max()), float(weights.rows.abs().sum(1).max())
        if largest > self.bias * reach:
            outside = float((weights.bias.abs() > self.bias * reach).double().mean())
            yield Finding(
                check=NAME,
                where=weights.bias_name,
                severity=0.8,
                evidence={"largest": largest, "largest_sum_of_a_row": reach, "share_outlying": outside},
                explanation=f"{outside:.0%} of the biases are up to {largest / reach:,.0f} times what the layer's rows"
                " can answer to inputs of size 1.",
                rule="bias",
                reads=READS,
                advice=ADVICE,
            )

    def _rows(self, weights: Weights) -> Iterator[Finding]:
        sizes = torch.linalg.vector_norm(weights.rows, dim=1, dtype=torch.float64)
        usual = float(sizes.quantile(0.75)) if len(sizes) >= 4 else 0.0
        if usual and float(sizes.max()) > self.row * usual:
            yield Finding(
                check=NAME,
                where=weights.name,
                severity=0.7,
                evidence={"largest": float(sizes.max()), "upper_quartile": usual},
                explanation=(
                    f"A row is {float(sizes.max()) / usual:,.0f} times as large as three quarters of the others."
                ),
                rule="row",
                reads=READS,
                advice=ADVICE,
            )

    def _scales(self, name: str, value: Float[Tensor, " m"]) -> Iterator[Finding]:
        largest = float(value.abs().max()) if value.numel() else 0.0
        if self.scale < largest < float("inf"):
            yield Finding(
                check=NAME,
                where=name,
                severity=0.7,
                evidence={"largest": largest},
                explanation=f"A number of it is {largest:,.0f}, where trained ones are about 1.",
                rule="scale",
                reads=READS,
                advice=ADVICE,
            )


CARD: Card[Check] = Card(
    title="Outlying biases and scales",
    paper="Wen et al., ICML 2022, arXiv:2202.00580",
    summary="Reports biases that no input outweighs, rows that dwarf the others of their layer, and huge scales.",
    presets={"paper": OutlyingScales(), "quick": OutlyingScales()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
