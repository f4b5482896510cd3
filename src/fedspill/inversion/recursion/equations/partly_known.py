"""A layer's input of which some values are known: least squares for the others, channel by channel.

What a residual sum puts out tells its shortcut's values wherever it fires. The gradient's equations are the same for
every channel of the input, but its unknown values are not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.inversion.recursion.equations.least_squares import (
    STRAY,
    TRIMS,
    Equations,
    Solution,
    as_columns,
    as_pictures,
    owners_of,
    undoubted,
)
from fedspill.inversion.recursion.facts import Fact

SINGULAR = 1e-10
"""Share of the largest pivot of the normal equations below which they do not determine a value."""
FEW = 0.2
"""Share of known values below which those of all channels are solved for at once."""
SPARE = 1.1
"""Equations for each unknown from which on their misfit is a proof."""
BARELY = 1.02
"""Equations for each unknown of a channel that is solved for by equations which others have proven."""
PROVING = 0.5
"""Share of the channels that must prove the equations."""


def solved_around(equations: Equations, channels: list[int], fact: Fact) -> Solution | None:
    """The input, if the gradient determines what is unknown of it and does not contradict what is known.

    A channel that hardly fires above has more unknown values than the others, which prove the equations for it. If
    there are too few of them even so, it stays unknown.

    Args:
        channels: out channels of the layers.
        fact: what is known of the input.
    """
    if not equations.rows or float(fact.known.double().mean()) < FEW:
        return None
    rows, targets = torch.cat(equations.rows), torch.cat(equations.wanted)
    owners = owners_of(equations, channels, rows.device)
    pairs, owner = owners.unique(dim=0, return_inverse=True)
    used = kept = undoubted(equations, owners)
    system = _System(rows, targets, as_columns(fact.value), as_columns(fact.known))
    for _ in range(TRIMS):
        proving = system.determined(kept, SPARE)
        if float(proving.double().mean()) < PROVING:
            return None
        x, solved = system.solution(kept, proving)
        if not bool((solved == proving).all()):
            return None
        off = rows @ x[:, proving] - targets[:, proving]
        if off[kept].norm() <= equations.misfit * targets[kept][:, proving].norm():
            stray = [(int(o[0]), int(o[1])) for o in owners[~kept & used].unique(dim=0)]
            return system.completed(kept, x, proving, equations, stray)
        missed = off.new_zeros(len(pairs)).index_add_(0, owner, off.square().sum(1)).sqrt()
        of = off.new_zeros(len(pairs)).index_add_(0, owner, kept.to(off)) > 0
        kept = kept & ~(missed > STRAY * missed[of].median())[owner]
    return None


@dataclass(frozen=True)
class _System:
    """Equations with the values that are known.

    Attributes:
        value: 0 where unknown.
    """

    rows: Float[Tensor, "e f"]
    targets: Float[Tensor, "e c"]
    value: Float[Tensor, "f c"]
    known: Bool[Tensor, "f c"]

    def determined(self, kept: Bool[Tensor, " e"], spare: float) -> Bool[Tensor, " c"]:
        """Channels with so many equations for each unknown."""
        return int(kept.sum()) >= spare * (~self.known).sum(0)

    def solution(self, kept: Bool[Tensor, " e"], wanted: Bool[Tensor, " c"]) -> tuple[Tensor, Bool[Tensor, " c"]]:
        """The values of these channels, and of which of them they are determined; those of others are as they were."""
        rows, x = self.rows[kept], self.value.where(self.known, 0.0)
        products, moments = rows.T @ rows, rows.T @ (self.targets[kept] - rows @ x)
        solved = torch.zeros_like(wanted)
        for channel in wanted.nonzero()[:, 0].tolist():
            unknown = ~self.known[:, channel]
            factor, failed = torch.linalg.cholesky_ex(products[unknown][:, unknown])
            pivots = factor.diagonal()
            if int(failed) or (len(pivots) and float(pivots.min()) < SINGULAR**0.5 * float(pivots.max())):
                continue
            x[unknown, channel] = torch.cholesky_solve(moments[unknown, channel, None], factor)[:, 0]
            solved[channel] = True
        return x, solved

    def completed(
        self,
        kept: Bool[Tensor, " e"],
        x: Float[Tensor, "f c"],
        proving: Bool[Tensor, " c"],
        equations: Equations,
        stray: list[tuple[int, int]],
    ) -> Solution:
        """With the other channels, where the equations that were proven determine them."""
        others, solved = self.solution(kept, self.determined(kept, BARELY) & ~proving)
        off = self.rows[kept] @ others - self.targets[kept]
        solved &= off.norm(dim=0) <= equations.misfit * self.targets[kept].norm(dim=0)
        x, known = x.where(~solved, others), self.known | proving | solved
        return Solution(as_pictures(x, equations.shape), as_pictures(known, equations.shape), stray, kept)
