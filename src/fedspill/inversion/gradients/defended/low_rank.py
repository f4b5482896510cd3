"""A matrix of known rank out of entries that are missing, cut or noisy.

Without noise it is looked for by projections in turns, on the matrices of that rank and on those that fit what was sent
(singular value projection: Jain, Meka and Dhillon, "Guaranteed Rank Minimization via Singular Value Projection",
NeurIPS 2010, arXiv 0909.5457), with momentum. Behind noise of known size the singular values are shrunk as is best in
the squared error (Gavish and Donoho, "Optimal Shrinkage of Singular Values", IEEE Transactions on Information Theory
2017, arXiv 1405.7511, eq. 7).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MOST_TURNS = 200
MOMENTUM = 0.8
SETTLED = 1e-4
"""Of a turn, the share of the matrix that it changes, below which there is no further one."""
HELD_OUT = 16
"""One entry of so many is left out where a fit is tested by what it says of entries that it was not told."""


@dataclass(frozen=True)
class Incomplete:
    """What is known of a matrix.

    Attributes:
        values: what was sent, float64.
        sent: entries that are known but for noise.
        low: of the other entries the least that they may be.
        high: likewise the largest.
        deviation: standard deviation of the noise on what was sent; 0 for none.
    """

    values: Float[Tensor, "m d"]
    sent: Bool[Tensor, "m d"]
    low: Float[Tensor, "m d"]
    high: Float[Tensor, "m d"]
    deviation: float = 0.0

    @property
    def whole(self) -> bool:
        """Every entry was sent."""
        return bool(self.sent.all())

    def filled(self, guess: Tensor) -> Tensor:
        """What was sent, and of the rest the nearest to a guess that it may be."""
        return torch.where(self.sent, self.values, guess.clamp(self.low, self.high))

    def without(self, held: Bool[Tensor, "m d"]) -> "Incomplete":
        """With some entries as if nothing were known of them."""
        low, high = self.low.masked_fill(held, -torch.inf), self.high.masked_fill(held, torch.inf)
        return replace(self, sent=self.sent & ~held, low=low, high=high)


def of_rank(known: Incomplete, rank: int) -> Float[Tensor, "m d"]:
    """The matrix of at most this rank; a long one is faster than a tall one."""
    if known.values.shape[0] > known.values.shape[1]:
        turned = (known.values.T, known.sent.T, known.low.T, known.high.T)
        return of_rank(Incomplete(*turned, known.deviation), rank).T
    # Noise is on the entries that were sent alone, so that on average there is less of it.
    noise = known.deviation * math.sqrt(float(known.sent.double().mean()))
    found = _projected(known.filled(torch.zeros_like(known.values)), rank, noise)
    before = found
    for _ in range(0 if known.whole else MOST_TURNS):
        ahead = found + MOMENTUM * (found - before)
        before, found = found, _projected(known.filled(ahead), rank, noise)
        if float((found - before).norm()) <= SETTLED * float(found.norm()):
            break
    return found


def _projected(matrix: Float[Tensor, "m d"], rank: int, noise: float) -> Float[Tensor, "m d"]:
    """The nearest matrix of a rank, shrunk by the noise that it holds."""
    rows, columns = matrix.shape
    squares, turn = torch.linalg.eigh(matrix @ matrix.T)
    squares, turn = squares[-rank:].clamp_min(0), turn[:, -rank:]
    return (turn * _kept(squares, rows, columns, noise)) @ (turn.T @ matrix)


def _kept(squares: Float[Tensor, " r"], rows: int, columns: int, noise: float) -> Float[Tensor, " r"]:
    """The shares of singular values, given by their squares, that are no noise."""
    if not noise:
        return torch.ones_like(squares)
    size, ratio = squares / (noise**2 * columns), rows / columns
    left = ((size - ratio - 1).square() - 4 * ratio).clamp_min(0).sqrt() / size.clamp_min(1e-300)
    return left.where(size > (1 + math.sqrt(ratio)) ** 2, 0.0)


def error_of(known: Incomplete, rank: int, found: Float[Tensor, "m d"]) -> tuple[float, float]:
    """The root mean square error of the entries, judged by what was sent alone, and what an entry of 0 would have.

    Both are infinite where nothing was sent as it is. Where all was sent it is the noise that a matrix of this rank
    keeps; else a fit is asked for sent entries that it was not told. Where the larger ones were sent these are told the
    best: rows and columns of which hardly anything was sent may be many times further off.
    """
    held = known.sent & _drawn(known.values)
    if not bool(held.any()):
        return math.inf, math.inf
    noise = known.deviation**2
    size = math.sqrt(max(0.0, float(known.values[held].square().mean()) - noise))
    if known.whole:
        rows, columns = found.shape
        return known.deviation * math.sqrt(rank * (rows + columns) / (rows * columns)), size
    apart = (of_rank(known.without(held), rank) - known.values)[held]
    return math.sqrt(max(0.0, float(apart.square().mean()) - noise)), size


def _drawn(values: Float[Tensor, "m d"]) -> Bool[Tensor, "m d"]:
    """One entry of `HELD_OUT`, the same at every call and alike in all rows and columns."""
    places = torch.arange(values.numel(), device=values.device)
    return (places * 2654435761 % 2**32 * HELD_OUT < 2**32).view_as(values)
