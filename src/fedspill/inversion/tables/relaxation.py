"""Free numbers as encoded rows: the softmax relaxation of TabLeak (arXiv 2210.01785, section 4.1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import CategoricalColumn, Column, TableSpec


@dataclass(frozen=True)
class Relaxation:
    """How free numbers become encoded rows.

    Attributes:
        spec: the columns.
        softmax: categories are the softmax of free numbers; else the free numbers themselves.
        sigmoid: numbers lie inside their column's bounds, by a sigmoid; else they are free.
        temperature: of the softmax, above 0.
    """

    spec: TableSpec
    softmax: bool = True
    sigmoid: bool = True
    temperature: float = 1.0

    def __call__(self, free: Float[Tensor, "*n features"]) -> Float[Tensor, "*n features"]:
        """Encoded rows, differentiable."""
        parts = free.split(self.spec.widths, -1)
        return torch.cat([self._part(c, p) for c, p in zip(self.spec.columns, parts, strict=True)], -1)

    def _part(self, column: Column, free: Tensor) -> Tensor:
        if isinstance(column, CategoricalColumn):
            return (free / self.temperature).softmax(-1) if self.softmax else free
        if not self.sigmoid:
            return free
        low, high = ((end - column.mean) / column.std for end in (column.low, column.high))
        return low + (high - low) * free.sigmoid()


def probabilities(spec: TableSpec, encoded: Float[Tensor, "*n features"]) -> Float[Tensor, "*n features"]:
    """Encoded rows whose categories add up to 1, whatever a search left in them: negative shares count as 0."""
    parts = encoded.split(spec.widths, -1)
    return torch.cat([_shares(c, p) for c, p in zip(spec.columns, parts, strict=True)], -1)


def _shares(column: Column, part: Tensor) -> Tensor:
    if not isinstance(column, CategoricalColumn):
        return part
    positive = part.clamp_min(0)
    total = positive.sum(-1, keepdim=True)
    return torch.where(total > 0, positive / total.clamp_min(1e-30), 1 / part.shape[-1])
