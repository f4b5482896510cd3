"""Columns of the unknown matrix: where each vanishes, and whether the half-space of its own input agrees."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.rng import randn
from fedspill.inversion.low_rank.factors import BEYOND, Factors

APART = 0.97
"""Cosine up to which two columns are two."""
MARGIN = 4
"""Rows in which a column must vanish beyond the r - 1 in which any r - 1 rows make one vanish."""
AGREES = 0.99
"""Share of the units that are off, of whose rows a column must vanish."""
ALIVE = 0.75
"""Share of the units that are on, of whose rows a column must stand out from noise."""


@dataclass(frozen=True)
class Layer:
    """What the first layer itself says of its inputs.

    Attributes:
        factors: of its gradient.
        outputs: R [W | b]^T, so that the layer's outputs for the inputs Q^-1 R are Q^-1 times it.
        slack: error of an output by rounding at the client, over the size of the input.
        lengths: of the rows of [W | b].
        least: rows in which a column must vanish.
    """

    factors: Factors
    outputs: Float[Tensor, "r kept"]
    slack: float
    lengths: Float[Tensor, " kept"]
    least: int


def layer(f: Factors, weight: Float[Tensor, "m d"], bias: Float[Tensor, " m"], eps: float, sparsity: float) -> Layer:
    """Sets a layer up.

    Args:
        f: of its gradient.
        weight: W, float64.
        bias: b.
        eps: relative rounding of the client's arithmetic.
        sparsity: share of the rows in which a column must vanish, at least.
    """
    whole = torch.cat([weight, bias[:, None]], 1)[f.rows]
    # Rows that no example fires vanish for all of them; they tell nothing apart.
    silent = len(weight) - len(f.rows)
    least = max(f.rank - 1 + MARGIN if f.rank > 1 else 0, int(sparsity * len(weight)) - silent)
    return Layer(f, f.right @ whole.T, 8 * eps * weight.shape[1] ** 0.5, whole.norm(dim=1), least)


@dataclass(frozen=True)
class Columns:
    """A guess of Q, and what follows from it.

    Attributes:
        q: columns of length 1.
        zeros: rows in which each vanishes.
        inputs: [X, 1], by the inverse of Q; infinite where the last entry of a row was 0.
        scale: of each column: D^T = U q scale.
        decided: rows of which the layer's outputs tell whether the unit is on, whatever rounding and noise.
        agrees: share of the units that are off in whose rows a column vanishes, less where it vanishes elsewhere, too.
    """

    q: Float[Tensor, "r r"]
    zeros: Bool[Tensor, "kept r"]
    inputs: Float[Tensor, "r columns"]
    scale: Float[Tensor, " r"]
    decided: Bool[Tensor, "kept r"]
    agrees: Float[Tensor, " r"]

    def settled(self, least: int) -> Bool[Tensor, " r"]:
        """Columns that vanish in so many rows."""
        return self.zeros.sum(0) >= least

    def complete(self, least: int) -> bool:
        """All columns vanish in so many rows, and where their units are off."""
        return bool((self.settled(least) & (self.agrees >= AGREES)).all())


@dataclass(frozen=True)
class Inverted:
    """A guess of Q with its inverse.

    Attributes:
        q: columns of length 1, with the signs that make the last entries of [X, 1] 0 or more.
        inverse: of q; its rows are the inputs in the coordinates of R.
        outputs: the layer's, up to a factor above 0 for each input.
    """

    q: Float[Tensor, "r r"]
    inverse: Float[Tensor, "r r"]
    outputs: Float[Tensor, "r kept"]


def inverted(at: Layer, q: Float[Tensor, "r r"]) -> Inverted:
    """Turns a guess round."""
    inverse = torch.linalg.pinv(q)
    sign = torch.where(inverse @ at.factors.right[:, -1] < 0, -1.0, 1.0).to(q)
    inverse = inverse * sign[:, None]
    return Inverted(q * sign, inverse, inverse @ at.outputs)


def judged(at: Layer, q: Float[Tensor, "r r"]) -> Columns:
    """What follows from a guess."""
    turned = inverted(at, q)
    zeros, right = at.factors.vanishing(q), turned.inverse @ at.factors.right
    error = at.slack * right.norm(dim=1) + BEYOND * at.factors.noise * turned.inverse.norm(dim=1)
    decided = (turned.outputs.abs() > error[:, None] * at.lengths).T
    off, on = (turned.outputs < 0).T & decided, (turned.outputs > 0).T & decided
    alive = (on & ~zeros).sum(0) / on.sum(0).clamp_min(1)
    agrees = (off & zeros).sum(0) / off.sum(0).clamp_min(1) * (alive / ALIVE).clamp_max(1)
    agrees = agrees.where(off.any(0), alive)
    return Columns(turned.q, zeros, right / right[:, -1:], right[:, -1], decided, agrees.to(q))


def polished(at: Layer, columns: Columns) -> Columns:
    """The columns that vanish best, by least squares, in the rows where these do; as they were if that spoils them."""
    unit = at.factors.unit
    best = [torch.linalg.eigh(unit[rows].T @ unit[rows])[1][:, 0] for rows in columns.zeros.T]
    again = judged(at, torch.stack(best, 1))
    return again if again.complete(at.least) else columns


def distinct(q: Float[Tensor, "r k"], zeros: Int[Tensor, " k"]) -> Int[Tensor, " kept"]:
    """Columns that are no copies of another one that vanishes in more rows."""
    near, kept = (q.T @ q).abs(), list[int]()
    for k in zeros.argsort(descending=True, stable=True).tolist():
        if all(float(near[k, j]) < APART for j in kept):
            kept.append(k)
    return torch.tensor(kept, dtype=torch.long, device=q.device)


def filled(q: Float[Tensor, "r k"], rng: torch.Generator) -> Float[Tensor, "r r"]:
    """These columns, and others drawn at right angles to them, r in all."""
    rank, have = q.shape
    if have >= rank:
        return q
    drawn = randn((rank, rank - have), rng, q)
    basis = torch.linalg.qr(q)[0]
    return torch.cat([q, torch.linalg.qr(drawn - basis @ (basis.T @ drawn))[0]], 1)
