"""Ridge regression of examples on features, with the penalty that does best on held-out pairs.

With few public examples a large network may learn them by heart, a linear map shrunk by how little a direction varies
less so. Not in the paper.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.learned.pairs import Pairs

PENALTIES = (0.1, 10.0, 100.0, 1000.0, 10000.0)
"""Of squared coefficients, beside squared errors summed over pairs, with features of unit variance."""


@dataclass(frozen=True)
class Linear:
    """A linear map of standardised features to flat targets, float32.

    Attributes:
        weight: from the first features alone, or from all.
        offset: the mean of the targets, which is all where no map does better on held-out pairs.
    """

    weight: Float[Tensor, "f t"]
    offset: Float[Tensor, " t"]

    def __call__(self, features: Float[Tensor, "m g"]) -> Float[Tensor, "m t"]:
        """What it makes of features."""
        return features[:, : len(self.weight)] @ self.weight + self.offset


def constant(targets: Float[Tensor, "m t"]) -> Linear:
    """The mean of the targets, whatever the features."""
    return Linear(targets.new_zeros(0, targets.shape[1]), targets.mean(0))


def ridge(pairs: Pairs, held_out: Pairs, read: int) -> Linear:
    """The best on held-out pairs of maps under several penalties, of all features or of those that are read.

    Args:
        pairs: with standardised features, one target order.
        held_out: likewise.
        read: features at the front that are read of layers; 0 for none.
    """
    targets, wanted = pairs.targets.flatten(1), held_out.targets.flatten(1)
    best = constant(targets)
    least = float((best(held_out.features) - wanted).square().mean())
    for width in sorted({read, pairs.features.shape[1]} - {0}):
        for found in _maps(pairs.features[:, :width], targets):
            error = float((found(held_out.features) - wanted).square().mean())
            if error < least:
                best, least = found, error
    return best


def _maps(features: Tensor, targets: Tensor) -> Iterator[Linear]:
    """One for each penalty, from the smaller of the two square matrices, in float64."""
    x, offset = features.double(), targets.double().mean(0)
    y, wide = targets.double() - offset, x.shape[1] > len(x)
    products, aimed = (x @ x.T, y) if wide else (x.T @ x, x.T @ y)
    for penalty in PENALTIES:
        factor = torch.linalg.cholesky(products + penalty * torch.eye(len(products)).to(products))
        solved = torch.cholesky_solve(aimed, factor)
        yield Linear((x.T @ solved if wide else solved).float(), offset.float())
