"""A layer's gradient as the product of a tall and a wide factor, whose rank is the number of examples (SPEAR, eq. 3).

G = [dW | db] = D^T [X, 1] with one row of D and of X per example. The singular value decomposition gives G = U R, so
that D^T = U Q and [X, 1] = Q^-1 R for one unknown square matrix Q.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable

GAP = 30.0
"""By how much the last singular value must stand out from noise where n is granted."""
WIDE_GAP = 300.0
"""The same where n is read from the gap itself."""
FINEST = 1e-11
"""Relative rounding that nothing is taken to be below: what solving in float64 leaves."""
BEYOND = 8.0
"""Standard deviations of noise within which a number counts as 0."""


@dataclass(frozen=True)
class Factors:
    """The factors of rank r, float64.

    Attributes:
        left: U, orthonormal columns.
        right: R, singular values times right singular vectors.
        rows: those of `left` that stand out from noise; the others are of units that no example fires.
        unit: these rows, each of length 1.
        blur: standard deviation of an entry of G in each of these rows, over the length of its row of U.
        sizes: the singular values.
        noise: standard deviation of an entry of G.
    """

    left: Float[Tensor, "m r"]
    right: Float[Tensor, "r columns"]
    rows: Int[Tensor, " kept"]
    unit: Float[Tensor, "kept r"]
    blur: Float[Tensor, " kept"]
    sizes: Float[Tensor, " r"]
    noise: float

    @property
    def rank(self) -> int:
        """The number of examples that can be told apart."""
        return len(self.sizes)

    def vanishing(self, q: Float[Tensor, "r k"]) -> Bool[Tensor, "kept k"]:
        """Rows in which a column U q is 0 but for noise; columns q of length 1."""
        noise = self.blur[:, None] * (q / self.sizes[:, None]).norm(dim=0)
        return (self.unit @ q).abs() <= BEYOND * noise


def factors(gradient: Float[Tensor, "m columns"], count: int | None, eps: float, deviation: float = 0.0) -> Factors:
    """The factors of a layer's gradient.

    Args:
        gradient: [dW | db], float64.
        count: n, if granted.
        eps: relative rounding of the numbers that were sent.
        deviation: standard deviation of an entry, where the gradient was completed to this rank, so that nothing is
            left over to tell it.

    Raises:
        NotApplicable: the rank does not stand out from noise, or n is not below the number of rows.
    """
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    eps = max(eps, FINEST)
    rank = _rank(s, count, eps, deviation * sum(size**0.5 for size in gradient.shape))
    hidden = rank if count is None else count
    tail = s[hidden:].square().sum() / max(1, (len(gradient) - hidden) * (gradient.shape[1] - hidden))
    length = gradient.norm(dim=1)
    noise = torch.maximum(tail.sqrt().clamp_min(deviation), eps * length / gradient.shape[1] ** 0.5)
    # Examples too weak to be told apart are no white noise: each adds its whole input to the rows that it fires.
    noise = noise + (u[:, rank:hidden] * s[rank:hidden]).norm(dim=1)
    kept = (length > BEYOND * noise * rank**0.5).nonzero()[:, 0]
    left = u[:, :rank]
    size = left[kept].norm(dim=1)
    return Factors(
        left,
        s[:rank, None] * v[:rank],
        kept,
        left[kept] / size[:, None],
        noise[kept] / size,
        s[:rank],
        float(noise.square().mean().sqrt()),
    )


def _rank(sizes: Float[Tensor, " k"], count: int | None, eps: float, least: float) -> int:
    if not float(sizes[0]) > 0:
        raise NotApplicable("the gradient of the first layer is 0: the update holds nothing of its input")
    floor = eps * float(sizes[0])
    if count is None:
        ratio = sizes[:-1] / sizes[1:].clamp_min(floor)
        best = int(ratio.argmax())
        if float(ratio[best]) < WIDE_GAP:
            raise NotApplicable(
                f"the singular values of the first layer's gradient show no gap (the widest is {float(ratio[best]):.0f}"
                f" times, {WIDE_GAP:.0f} are needed): it is noisy, or of as many examples as the layer has units"
            )
        return best + 1
    if count >= len(sizes):
        raise NotApplicable(f"{count} examples are too many for a layer of {len(sizes)} units: fewer are needed")
    noise = max(float(sizes[count]), floor, least)
    rank = int((sizes[:count] > GAP * noise).sum())
    if rank == 0 or (rank < count and float(sizes[rank]) > GAP * floor):
        raise NotApplicable(
            f"noise drowns the gradient of the first layer: singular value {rank + 1} of {count} is no more than"
            f" {float(sizes[rank] / noise):.1f} times what is left over ({GAP:.0f} are needed)"
        )
    return rank
