"""The largest eigenvectors of a symmetric operator that is known by its products only."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn, stream

DEPTH = 20
"""Applications of the operator between two restarts."""
RESTARTS = 40
CONVERGED = 1e-9
"""Share of the largest eigenvalue by which the operator may take an eigenvector out of its direction."""
DEPENDENT = 1e-12
"""Length of what a new direction adds below which it adds nothing."""


def largest(
    operator: Callable[[Tensor], Tensor], size: int, count: int, like: Tensor
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k n"]]:
    """The largest eigenvalues, falling, and their eigenvectors (block Lanczos with restarts).

    A block as large as the number of eigenvectors finds eigenvalues that come several times, which one start misses.

    Args:
        operator: maps vectors (b, n) to (b, n); symmetric.
        size: n, at least `count`.
        like: of the dtype and device wanted.
    """
    block = _orthonormal(randn((min(count + 2, size), size), stream(0, "krylov"), like), like.new_zeros(0, size))
    values = like.new_zeros(len(block))
    for _ in range(RESTARTS):
        basis, images = _krylov(operator, block)
        values, mixtures = torch.linalg.eigh(images @ basis.T)
        mixtures, values = mixtures[:, -len(block) :].T.flip(0), values.flip(0)[: len(block)]
        block = mixtures @ basis
        off = (mixtures @ images - values[:, None] * block)[:count]
        if len(basis) == size or float(off.norm(dim=1).max()) <= CONVERGED * float(values[0].abs()):
            break
    return values[:count], block[:count]


def _krylov(operator: Callable[[Tensor], Tensor], block: Tensor) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of what repeated application makes of the block, and the operator's images of it."""
    basis, images = block, operator(block)
    fresh = images
    for _ in range(DEPTH):
        fresh = _orthonormal(fresh, basis)
        if len(fresh) == 0:
            break
        basis = torch.cat([basis, fresh])
        fresh = operator(fresh)
        images = torch.cat([images, fresh])
    return basis, images


def _orthonormal(vectors: Tensor, basis: Tensor) -> Tensor:
    """What is new in these directions, orthonormal to the basis; twice, since once leaves rounding."""
    for _ in range(2):
        vectors = vectors - (vectors @ basis.T) @ basis
        _, lengths, vectors = torch.linalg.svd(vectors, full_matrices=False)
        vectors = vectors[lengths > DEPENDENT]
    return vectors
