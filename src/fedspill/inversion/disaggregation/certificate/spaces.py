"""The row space of a fully connected layer's gradient, and those of the same gradient with fresh noise.

The gradient is Delta^T [X, 1]. To first order fresh noise moves its row space by what it has in the column space of
Delta, so that no gradient is ever drawn whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn, stream


@dataclass(frozen=True)
class Space:
    """Where the inputs of all examples lie.

    Attributes:
        basis: orthonormal rows.
        seen: the gradient in that basis.
        noise: standard deviation of what disturbs each entry of the gradient, by the spectrum beyond the examples.
        sizes: singular values of the gradient.
    """

    basis: Float[Tensor, "m k"]
    seen: Float[Tensor, "out m"]
    noise: float
    sizes: Float[Tensor, " r"]

    @classmethod
    def of(cls, rows: Float[Tensor, "out k"], m: int) -> "Space":
        """That of m examples."""
        _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
        freedom = max(1, (rows.shape[0] - m) * (rows.shape[1] - m))
        return cls(right[:m], rows @ right[:m].T, float(sizes[m:].norm()) / freedom**0.5, sizes)


def redrawn_spaces(
    delta: Float[Tensor, "m out"], inputs: Float[Tensor, "m k"], noise: float, draws: int
) -> Iterator[Space]:
    """Row spaces of delta^T inputs with fresh noise.

    Args:
        delta: derivatives by what the layer puts out.
        inputs: of the layer, with the bias's column where that was trained.
        noise: standard deviation of each entry.
        draws: how many.
    """
    rng = stream(0, "redraws", "layer", *inputs.shape)
    across, along = torch.linalg.qr(delta.T), torch.linalg.qr(inputs.T)
    _, sizes, right = torch.linalg.svd(across.R @ along.R.T)
    rows = sizes[:, None] * (right @ along.Q.T)
    for _ in range(draws):
        basis = torch.linalg.qr((rows + noise * randn(tuple(rows.shape), rng, rows)).T).Q.T
        seen = delta.T @ (inputs @ basis.T)
        yield Space(basis, seen + noise * randn(tuple(seen.shape), rng, seen), noise, sizes)
