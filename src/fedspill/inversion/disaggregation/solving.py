"""Levenberg-Marquardt for the mixing, in float64, from many starts at once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.dense import dense_step
from fedspill.inversion.disaggregation.matrix_free import matrix_free_step
from fedspill.inversion.disaggregation.point import Point, Rules, point
from fedspill.inversion.disaggregation.system import System

DENSE = 20
"""Examples up to which the normal equations are written out."""
HIGH, LOW = 1e10, 1e-14
"""Bounds of the damping."""
STALLED, SETTLED = 1e-4, 1e-2
"""Relative gain of the cost below which a step counts for nothing: on the way, and where rounding explains the rest."""
PATIENCE = 8
"""Steps in a row that count for nothing, after which a start is left."""


@dataclass(frozen=True)
class Solved:
    """Guesses of the mixing, and how well each fits.

    Attributes:
        mixing: M, one per start.
        factor: of the update over the mean gradient; 1 where that is known.
        residual: of the equations, relative to the gradient.
        cost: its square with what negative features add.
    """

    mixing: Float[Tensor, "s m m"]
    factor: Float[Tensor, " s"]
    residual: Float[Tensor, " s"]
    cost: Float[Tensor, " s"]

    def best(self, number: int = 1) -> "Solved":
        """Those of the least cost."""
        index = self.cost.nan_to_num(torch.inf).argsort()[:number]
        return Solved(self.mixing[index], self.factor[index], self.residual[index], self.cost[index])


def solve(
    known: System,
    mixing: Float[Tensor, "s m m"],
    factor: Float[Tensor, " s"],
    rules: Rules,
    is_up: Callable[[], bool] = lambda: False,
) -> Solved:
    """Mixings that fulfil the equations as well as can be reached from the starts.

    Args:
        known: the equations.
        mixing: the starts.
        factor: of the update at each.
        rules: what is minimised, and until when.
        is_up: whether the time is over.
    """
    here = point(known, mixing, factor, rules.hinge)
    damping, idle = torch.full_like(factor, 1e-2), torch.zeros_like(factor)
    for _ in range(rules.steps):
        active = (idle < PATIENCE).nonzero()[:, 0]
        if not len(active) or is_up():
            break
        before = here.at(active)
        after = _moved(known, before, damping[active], rules)
        cost = before.cost()
        gain = (cost - after.cost().nan_to_num(torch.inf)) / cost.clamp_min(1e-300)
        better = gain > 0
        here = here.taken(active[better], after.at(better))
        damping[active] = torch.where(better, damping[active] / 4, damping[active] * 5).clamp(LOW, HIGH)
        settled = before.residual() <= rules.enough
        idle[active] = torch.where(
            gain > torch.where(settled, SETTLED, STALLED), 0.0, idle[active] + torch.where(settled, PATIENCE / 2, 1.0)
        )
    return Solved(here.mixing, here.factor, here.residual(), here.cost())


def _moved(known: System, here: Point, damping: Tensor, rules: Rules) -> Point:
    step = dense_step if here.mixing.shape[1] <= DENSE else matrix_free_step
    relative, grown = step(known, here, damping, rules)
    factor = here.factor * grown.clamp(-1, 1).exp()
    return point(known, here.mixing + relative @ here.mixing, factor, rules.hinge)
