"""The paper's search (SPEAR, sections 3.2 to 3.4): null vectors of random rows, filtered and chosen greedily.

The column of an example vanishes in about half of the rows; r - 1 rows of these determine it. Random r - 1 rows are
such with a probability of about r / 2^(r - 1).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import rand, randn
from fedspill.inversion.low_rank.columns import Columns, Layer, distinct, filled, judged, polished

AT_ONCE = 2048
"""Samples of a batch."""
DEPENDENT = 1e-4
"""Distance of a column from the span of others below which it is one of theirs."""
EXCHANGES = 200
"""Candidates that are tried in the place of a chosen one."""


def sampled(at: Layer, samples: int, rng: torch.Generator, tell: Callable[[int, int], bool]) -> Columns:
    """The best guess of Q.

    Args:
        at: the layer; `least` is the paper's threshold on zeros.
        samples: of r - 1 rows, at most.
        rng: draws them.
        tell: takes samples done and columns found, returns whether the time is up.
    """
    rank = at.factors.rank
    pool, done, chosen = at.factors.unit.new_empty(rank, 0), 0, at.factors.unit.new_empty(rank, 0)
    best = judged(at, filled(chosen, rng))
    while done < samples and not best.complete(at.least) and not tell(done, chosen.shape[1]):
        found = _null_vectors(at, rng)
        zeros = at.factors.vanishing(found).sum(0)
        found, done = found[:, zeros >= at.least], done + AT_ONCE
        if found.shape[1]:
            pool = torch.cat([pool, found], 1)
            pool = pool[:, distinct(pool, at.factors.vanishing(pool).sum(0))]
            chosen = _sparsest(pool)
            best = judged(at, filled(chosen, rng))
            if chosen.shape[1] == rank:
                best = _exchanged(at, best, pool)
    return polished(at, best) if best.complete(at.least) else best


def _null_vectors(at: Layer, rng: torch.Generator) -> Float[Tensor, "r k"]:
    unit, rank = at.factors.unit, at.factors.rank
    if rank == 1:
        return unit.new_ones(1, 1)
    rows = rand((AT_ONCE, len(unit)), rng, unit).topk(rank - 1, dim=1).indices
    other = randn((AT_ONCE, 1, rank), rng, unit)
    right = unit.new_zeros(AT_ONCE, rank, 1)
    right[:, -1] = 1
    q = torch.linalg.solve_ex(torch.cat([unit[rows], other], 1), right)[0][:, :, 0]
    q = q / q.norm(dim=1, keepdim=True)
    return q[q.isfinite().all(1)].T


def _sparsest(pool: Float[Tensor, "r k"]) -> Float[Tensor, "r c"]:
    """Independent columns, those that vanish in most rows first; the pool is in that order."""
    chosen = pool[:, :0]
    for k in range(pool.shape[1]):
        basis, one = torch.linalg.qr(chosen)[0], pool[:, k : k + 1]
        if float((one - basis @ (basis.T @ one)).norm()) > DEPENDENT:
            chosen = torch.cat([chosen, one], 1)
        if chosen.shape[1] == len(pool):
            break
    return chosen


def _exchanged(at: Layer, best: Columns, pool: Float[Tensor, "r k"]) -> Columns:
    """The second stage: other candidates in the place of the column that agrees least, where all then agree better."""
    for k in range(min(EXCHANGES, pool.shape[1])):
        if best.complete(at.least):
            break
        worst, one = int(best.agrees.argmin()), pool[:, k : k + 1]
        if float((best.q.T @ one).abs().max()) > 1 - DEPENDENT:
            continue
        tried = judged(at, torch.cat([best.q[:, :worst], one, best.q[:, worst + 1 :]], 1))
        best = tried if float(tried.agrees.mean()) > float(best.agrees.mean()) else best
    return best
