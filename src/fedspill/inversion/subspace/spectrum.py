"""The rows that entered a layer, out of its gradient's spectrum: their space, its rank, and how far noise moves it.

The gradient of `y = x W^T` over all rows is D^T X. Its row space is that of the rows X while these are fewer than the
width; every other direction holds noise alone (rounding, or what a defence added), whose size is so measured.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

GAP = 10.0
"""Ratio of neighbouring singular values at which the rank is beyond doubt."""
EDGE = 1.05
"""Over the largest singular value of pure noise (Marchenko-Pastur), from which one is a signal."""
FLOOR = 0.8
"""Of the smallest singular value of pure noise, which the smallest of all must reach."""
NO_TAIL = 2
"""Directions without a signal, of which fewer tell nothing."""
ROUNDED = 2.0
"""Units in the last place by which the rows may differ between the client's machine and this one."""

SOLVED = 1e-14
"""The same of what is computed here, in float64."""


@dataclass(frozen=True)
class Subspace:
    """The space of the rows of one layer, in float64.

    Attributes:
        basis: (r, d) orthonormal.
        strengths: (r,) the singular values of the basis.
        noise: standard deviation of the noise on an entry, in the same scale.
        noise_share: the noise's norm over the gradient's.
        rounding: relative error of the rows themselves.
        even: the scale is that of rows of the gradient that were brought to length 1.
        full: nothing is known outside the basis: the rows fill the width, or the noise hides where they end.
    """

    basis: Float[Tensor, "r d"]
    strengths: Float[Tensor, " r"]
    noise: float
    noise_share: float
    rounding: float
    even: bool
    full: bool

    @property
    def rank(self) -> int:
        """Independent rows that show."""
        return len(self.basis)

    def outside(self, rows: Float[Tensor, "*m d"]) -> Float[Tensor, "*m"]:
        """The share of each row's length that lies outside the space, in [0, 1]."""
        along = rows @ self.basis.T
        square = rows.square().sum(-1).clamp_min(1e-300)
        # The remainder itself, as the difference of two squares would lose half of the digits.
        return (rows - along @ self.basis).square().sum(-1).div(square).sqrt()

    def excess(self, rows: Float[Tensor, "*m d"]) -> Float[Tensor, "*m"]:
        """How far each row lies outside, over what noise explains of a row inside: about 1 for those that are.

        A row inside is a combination of the gradient's rows, with weights that its coordinates over the singular
        values give; the same combination of the noise is what may stick out.
        """
        along = rows @ self.basis.T
        left = (rows - along @ self.basis).square().sum(-1)
        free = self.basis.shape[1] - self.rank
        explained = self.noise**2 * free * (along / self.strengths).square().sum(-1)
        floor = (self.rounding**2) * rows.square().sum(-1)
        return (left / (explained + floor).clamp_min(1e-300)).sqrt()


def subspace(gradient: Float[Tensor, "out d"], eps: float) -> Subspace:
    """The space of the rows behind a layer's gradient.

    Rounding is relative, so rows of the gradient are first brought to one length, which changes nothing of the space;
    noise of one size everywhere is left as it is. Whichever shows a gap is taken.

    Args:
        gradient: a row for each output, float64; several layers with the same input may be stacked.
        eps: of the precision in which the rows were computed.
    """
    length = gradient.norm(dim=1, keepdim=True)
    kept = gradient[length[:, 0] > 0]
    if not len(kept):
        return _space(gradient[:1], 0, eps, even=False, full=True)
    for even, rows in ((True, kept / kept.norm(dim=1, keepdim=True)), (False, kept)):
        rank = last_gap(torch.linalg.svdvals(rows))
        if rank is not None:
            return _space(rows, rank, eps, even=even)
    rank = above_noise(torch.linalg.svdvals(kept), kept.shape)
    return _space(kept, rank or 0, eps, even=False, full=not rank)


def _space(rows: Float[Tensor, "out d"], rank: int, eps: float, *, even: bool, full: bool = False) -> Subspace:
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    free = max(1, (rows.shape[0] - rank) * (rows.shape[1] - rank))
    noise = float(values[rank:].square().sum().div(free).sqrt())
    share = noise * rows.numel() ** 0.5 / float(values.norm().clamp_min(1e-300))
    return Subspace(basis[:rank], values[:rank], noise, share, ROUNDED * eps + SOLVED, even, full)


def last_gap(values: Float[Tensor, " k"]) -> int | None:
    """The rank before the last gap in falling singular values; None if there is none."""
    floor = 4 * torch.finfo(values.dtype).eps * values[:1]
    values = torch.maximum(values, floor)
    gaps = (values[:-1] > GAP * values[1:]).nonzero()[:, 0] + 1
    gaps = gaps[gaps <= len(values) - NO_TAIL]
    return int(gaps[-1]) if len(gaps) else None


def above_noise(values: Float[Tensor, " k"], shape: torch.Size) -> int | None:
    """Singular values above the bulk of the noise that the others are; None if they are none.

    The least rank whose next value is no larger than the largest of pure noise with the others' mean square; the least
    of the others must then be as large as the least of such noise. Where rows crowd the width, values fall on and on.
    """
    energy = values.square().flip(0).cumsum(0).flip(0)
    for rank in range(len(values) - NO_TAIL):
        rows, free = shape[0] - rank, shape[1] - rank
        size = float(energy[rank] / (rows * free)) ** 0.5
        if float(values[rank]) <= EDGE * size * (rows**0.5 + free**0.5):
            least = size * abs(rows**0.5 - free**0.5)
            return rank if float(values[-1]) >= FLOOR * least else None
    return None
