"""What a ReLU put out, solved again with what is zero of it at zero.

Least squares for a layer's input do not know that half of its values are zero. Where equations are hardly more than
values, knowing it takes most of the error away, and with it nearly all doubt about who fires. Who does is found as
non-negative least squares find it (Lawson, Hanson 1974): values below zero leave, those that the rest asks for come.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.inversion.recursion.equations.least_squares import Equations, Solution, as_columns, as_pictures
from fedspill.inversion.recursion.facts import Fact

ROUNDS = 4
ASKED = 6.0
"""Standard errors above zero at which a value is not zero."""
PLENTY = 2.0
"""Equations for each value from which on zeros add little."""
EXACT = 1e-12
"""Relative noise of equations that rounding in float64 leaves."""
WORSE = 2.0
"""Times the noise of the solution before: beyond, wrong values were put to zero."""


@dataclass(frozen=True)
class Sharpened:
    """Values of a ReLU.

    Attributes:
        value: of every channel, in columns.
        error: the largest standard error of a value.
    """

    value: Float[Tensor, "f c"]
    error: float


def with_zeros(equations: Equations, solution: Solution, fact: Fact | None) -> Solution:
    """The solution for what a ReLU put out, sharpened if it can be; its error is relative to the root mean square.

    Args:
        fact: what was known of it before.
    """
    if solution.used is None or not bool(solution.known.all()):
        return solution
    rows, targets = torch.cat(equations.rows)[solution.used], torch.cat(equations.wanted)[solution.used]
    if len(rows) > PLENTY * rows.shape[1]:
        return solution
    fixed = torch.zeros_like(solution.known) if fact is None else fact.known
    found = sharpened(rows, targets, as_columns(solution.value), as_columns(fixed))
    if found is None:
        return solution
    size = float(found.value.square().mean().sqrt().clamp_min(1e-300))
    return replace(solution, value=as_pictures(found.value, equations.shape), error=found.error / size)


def sharpened(
    rows: Float[Tensor, "e f"],
    targets: Float[Tensor, "e c"],
    value: Float[Tensor, "f c"],
    fixed: Bool[Tensor, "f c"],
) -> Sharpened | None:
    """The values with zeros among them; None where zeros contradict the equations, or leave a channel undetermined.

    Args:
        value: a solution that does not know of zeros.
        fixed: values that are known from elsewhere.
    """
    system = _System(rows, targets, value.where(fixed, 0.0))
    floor = EXACT * float(targets.square().mean().sqrt())
    noise, zero = max(floor, system.noise(value, ~fixed)), (-value.where(~fixed, 0.0)).amax().clamp_min(0)
    free = ~fixed & (value > zero)
    for _ in range(ROUNDS):
        solution = system.solved(free)
        if solution is None:
            return None
        asked = ~fixed & ~free & (system.asked(solution, free) > ASKED * noise)
        below = free & (solution < 0)
        if not bool((asked | below).any()):
            after = system.noise(solution, free)
            return Sharpened(solution, after * system.largest_error(free)) if after <= WORSE * noise else None
        free = (free | asked) & ~below
    return None


@dataclass(frozen=True)
class _System:
    """Equations, and what is known.

    Attributes:
        known: 0 where it is not.
    """

    rows: Float[Tensor, "e f"]
    targets: Float[Tensor, "e c"]
    known: Float[Tensor, "f c"]

    @cached_property
    def products(self) -> Float[Tensor, "f f"]:
        """Of the normal equations."""
        return self.rows.T @ self.rows

    def noise(self, x: Float[Tensor, "f c"], free: Bool[Tensor, "f c"]) -> float:
        """What the equations are off at a solution, each in the mean, for the values that it had free."""
        spare = (len(self.rows) - free.sum(0)).clamp_min(1).sum()
        return float(((self.targets - self.rows @ x).square().sum() / spare).sqrt())

    def solved(self, free: Bool[Tensor, "f c"]) -> Float[Tensor, "f c"] | None:
        """The free values, the others being known or zero; None if those of some channel are not determined."""
        x = self.known.clone()
        moments = self.rows.T @ (self.targets - self.rows @ x)
        for channel in range(x.shape[1]):
            own = free[:, channel]
            factor, failed = torch.linalg.cholesky_ex(self.products[own][:, own])
            if int(failed) or int(own.sum()) >= len(self.rows):
                return None
            x[own, channel] = torch.cholesky_solve(moments[own, channel, None], factor)[:, 0]
        return x

    def largest_error(self, free: Bool[Tensor, "f c"]) -> float:
        """Of a free value in the channel that has most of them, in units of what the equations are off."""
        own = free[:, free.sum(0).argmax()]
        factor, _ = torch.linalg.cholesky_ex(self.products[own][:, own])
        return float(torch.cholesky_inverse(factor).diagonal().amax()) ** 0.5 if len(factor) else 0.0

    def asked(self, x: Float[Tensor, "f c"], free: Bool[Tensor, "f c"]) -> Float[Tensor, "f c"]:
        """How much each value that is zero would lessen what is left, in its direction beyond the free ones.

        What of a direction lies beyond is taken to be the share of the equations that the free values leave.
        """
        beyond = self.products.diagonal()[:, None] * (1 - free.sum(0) / len(self.rows)).clamp_min(1e-3)
        return (self.rows.T @ (self.targets - self.rows @ x)) / beyond.clamp_min(1e-300).sqrt()
