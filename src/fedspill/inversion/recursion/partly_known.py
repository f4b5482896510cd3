"""A layer's input of which some values are known: least squares for the others, channel by channel.

What a residual sum puts out tells its shortcut's values wherever it fires. The gradient's equations are the same for
every channel of the input, but its unknown values are not.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.inversion.recursion.facts import Fact
from fedspill.inversion.recursion.least_squares import (
    STRAY,
    TRIMS,
    Equations,
    Solution,
    as_columns,
    as_pictures,
    owners_of,
    undoubted,
)

SINGULAR = 1e-10
"""Share of the largest pivot of the normal equations below which they do not determine a value."""
FEW = 0.2
"""Share of known values below which those of all channels are solved for at once."""
SPARE = 1.1
"""Equations for each unknown from which on their misfit is a proof."""


def solved_around(equations: Equations, channels: list[int], fact: Fact) -> Solution | None:
    """The input, if the gradient determines what is unknown of it and does not contradict what is known.

    Args:
        channels: out channels of the layers.
        fact: what is known of the input.
    """
    if not equations.rows or float(fact.known.double().mean()) < FEW:
        return None
    rows, targets = torch.cat(equations.rows), torch.cat(equations.wanted)
    owners = owners_of(equations, channels, rows.device)
    pairs, owner = owners.unique(dim=0, return_inverse=True)
    kept = undoubted(equations, owners)
    used = kept
    for _ in range(TRIMS):
        x = _solution(rows[kept], targets[kept], as_columns(fact.value), as_columns(fact.known))
        if x is None:
            return None
        off = rows @ x - targets
        if off[kept].norm() <= equations.misfit * targets[kept].norm():
            stray = [(int(o[0]), int(o[1])) for o in owners[~kept & used].unique(dim=0)]
            return Solution(as_pictures(x, equations.shape), torch.ones_like(fact.known), stray)
        missed = off.new_zeros(len(pairs)).index_add_(0, owner, off.square().sum(1)).sqrt()
        of = off.new_zeros(len(pairs)).index_add_(0, owner, kept.to(off)) > 0
        kept = kept & ~(missed > STRAY * missed[of].median())[owner]
    return None


def _solution(
    rows: Float[Tensor, "e f"], targets: Float[Tensor, "e c"], value: Float[Tensor, "f c"], known: Bool[Tensor, "f c"]
) -> Float[Tensor, "f c"] | None:
    products, moments = rows.T @ rows, rows.T @ targets
    x = value.where(known, 0.0)
    moments = moments - products @ x
    if len(rows) < SPARE * int((~known).sum(0).max()):
        return None
    for channel in range(x.shape[1]):
        unknown = ~known[:, channel]
        factor, failed = torch.linalg.cholesky_ex(products[unknown][:, unknown])
        pivots = factor.diagonal()
        if int(failed) or (len(pivots) and float(pivots.min()) < SINGULAR**0.5 * float(pivots.max())):
            return None
        x[unknown, channel] = torch.cholesky_solve(moments[unknown, channel, None], factor)[:, 0]
    return x
