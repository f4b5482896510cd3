"""All columns at once, in polynomial time: reweighted least squares over the rows where each input's unit is off.

A column of D^T vanishes where the layer's output for its example is negative, and these outputs are linear in the rows
of Q^-1, as the layer's weights are known. So a guess of Q says by its inverse in which rows each of its columns must
vanish; the column that vanishes there best, in the sense of the sum of absolute values, is a better guess. The sum is
minimised by reweighted squares as in robust subspace recovery (dual principal component pursuit: Tsakiris and Vidal,
JMLR 2018, arXiv 1510.04390), which alone, without half-spaces, finds fewer columns. Not in the papers of SPEAR (2024)
and SPEAR++ (2025, arXiv 2510.24200), which searches by dictionary learning without the layer's weights.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.low_rank.columns import Columns, Layer, distinct, filled, inverted, judged, polished

SOFT = 0.2
"""Of an example's outputs' root mean square, over which the edge of its half-space is blurred."""
OUTSIDE = 0.01
"""Weight of the rows beyond the edge, so that no guess is ever wholly decided by a wrong half-space."""
SMOOTHED, QUANTILE = 0.3, 0.3
"""Absolute values are smoothed below this share of this quantile of those in the half-space."""


@dataclass(frozen=True)
class Turns:
    """How long the search goes on.

    Attributes:
        number: of turns at most, one least-squares problem per column each.
        redraw: turns without a further settled column after which the others are drawn anew.
    """

    number: int
    redraw: int


def solved(
    at: Layer, turns: Turns, rng: torch.Generator, tell: Callable[[int, int], bool], start: Tensor | None = None
) -> Columns:
    """The best guess of Q: complete, or after the last turn.

    Args:
        at: the layer.
        turns: how many.
        rng: draws the columns.
        tell: takes turns done and columns settled, returns whether the time is up.
        start: columns to begin with, fewer than r or r.
    """
    q = filled(at.factors.unit.new_empty(at.factors.rank, 0) if start is None else start, rng)
    best, since = judged(at, q), 0
    for number in range(turns.number):
        if best.complete(at.least) or tell(number, _count(at, best)):
            break
        q = _turned(at, q)
        now = judged(at, q)
        kept = distinct(now.q, now.zeros.sum(0))
        if _better(at, now, best):
            best, since = now, number
        if number - since >= turns.redraw:
            q, since = filled(_trusted(at, now, kept), rng), number
        elif len(kept) < at.factors.rank:
            q = filled(now.q[:, kept], rng)
    return polished(at, best) if best.complete(at.least) else best


def _count(at: Layer, columns: Columns) -> int:
    return len(distinct(columns.q[:, columns.settled(at.least)], columns.zeros.sum(0)[columns.settled(at.least)]))


def _better(at: Layer, now: Columns, best: Columns) -> bool:
    if now.complete(at.least):
        return True
    return _count(at, now) > _count(at, best)


def _trusted(at: Layer, now: Columns, kept: Tensor) -> Float[Tensor, "r k"]:
    """Settled columns, without the one that agrees least if all are: it then is a mixture."""
    settled = kept[now.settled(at.least)[kept]]
    if len(settled) == at.factors.rank:
        settled = settled[now.agrees[settled].argsort(descending=True)[:-1]]
    return now.q[:, settled]


def _turned(at: Layer, q: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """For every column the one that vanishes best in its half-space."""
    unit, z = at.factors.unit, inverted(at, q).outputs
    size = (unit @ q).abs().T
    inside = torch.sigmoid(-z / (SOFT * z.square().mean(1, keepdim=True).sqrt())) + OUTSIDE
    within = size.masked_fill(z >= 0, torch.nan).nanquantile(QUANTILE, dim=1, keepdim=True).nan_to_num(1.0)
    weight = inside / (size.square() + (SMOOTHED * within + 1e-12).square()).sqrt()
    grams = torch.stack([(unit * w[:, None]).T @ unit for w in weight])
    return torch.linalg.eigh(grams)[1][:, :, 0].T
