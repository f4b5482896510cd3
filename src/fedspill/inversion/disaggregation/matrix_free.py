"""The same step by conjugate gradients, for large batches: nothing larger than m x m x classes is ever held.

The preconditioner is each example's own block of the normal equations.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.point import Point, Rules, Slopes
from fedspill.inversion.disaggregation.system import System

CLOSE = 1e-3
"""Share of the first residual at which the inner iterations end."""
INNER = 500
"""Inner iterations at most."""


def matrix_free_step(
    known: System, here: Point, damping: Float[Tensor, " s"], rules: Rules
) -> tuple[Float[Tensor, "s m m"], Float[Tensor, " s"]]:
    """The relative step of each start, one after the other, and that of the factor's logarithm."""
    index = torch.arange(len(damping), device=damping.device)[:, None]
    steps = [_Equations(known, here.at(i), rules).step(damping[i[0]]) for i in index]
    return torch.stack([s[0] for s in steps]), torch.stack([s[1] for s in steps])


class _Equations:
    """J of one start as a function, its transpose, and its blocks."""

    def __init__(self, known: System, here: Point, rules: Rules) -> None:
        slopes = Slopes.of(known, here, rules.hinge)
        self.here, self.free, self.mixing, self.errors = here, rules.free, here.mixing[0], here.errors[0]
        self.p, self.logits, self.slope = here.probabilities[0], slopes.logits[0], slopes.slope[0]
        self.ones, self.gate, self.features = slopes.ones[0], slopes.gate[0], slopes.features[0]
        self.moves = slopes.moves(here.probabilities)[0]
        self.shown = self.errors.T @ self.mixing

    def forward(self, x: Tensor, factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """J of a step: of the gradient, of M r, of the hinge."""
        logits = x @ self.logits
        moved = self.slope * (logits - (self.p * logits).sum(1, keepdim=True))
        gradient = (moved.T + self.errors.T @ x) @ self.mixing + factor * self.shown
        return gradient, x @ self.ones, self.gate * (x @ self.features)

    def backward(self, gradient: Tensor, unit: Tensor, hinge: Tensor) -> tuple[Tensor, Tensor]:
        """J^T of the same."""
        seen = gradient @ self.mixing.T
        weighed = self.slope * seen.T
        weighed = weighed - self.p * weighed.sum(1, keepdim=True)
        x = weighed @ self.logits.T + self.errors @ seen + torch.outer(unit, self.ones) + hinge @ self.features.T
        return x, (self.shown * gradient).sum() * self.free

    def blocks(self) -> Float[Tensor, "m m m"]:
        """J^T J of each example's own row of X."""
        gram = self.mixing @ self.mixing.T
        own = (self.moves @ self.moves.mT) * gram.diagonal()[:, None, None]
        crossed = torch.einsum("abc,ac->ab", self.moves, self.errors)[:, :, None] * gram[:, None]
        hinge = (self.gate[:, None] * self.features) @ self.features.T
        shared = self.errors.square().sum(1)[:, None, None] * gram + torch.outer(self.ones, self.ones)
        return own + crossed + crossed.mT + shared + hinge

    def step(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The damped Gauss-Newton step."""
        blocks, corner = self.blocks(), self.shown.square().sum()
        diagonal = blocks.diagonal(dim1=1, dim2=2)
        floor = 1e-12 * diagonal.max().clamp_min(1e-300)
        damped = damping * diagonal.clamp_min(floor) + 1e-3 * floor
        factorised, failed = torch.linalg.cholesky_ex((blocks + torch.diag_embed(damped)).nan_to_num(torch.inf))
        if bool(failed.any()):
            return torch.zeros_like(diagonal), torch.zeros_like(damping)
        down = self.backward(self.here.missed[0], self.here.unit[0], self.here.negative[0])
        left, other = -down[0], -down[1]
        x, factor = torch.zeros_like(left), torch.zeros_like(other)
        along, turn = torch.cholesky_solve(left[..., None], factorised)[..., 0], other / corner / (1 + damping)
        size = first = (left * along).sum() + other * turn
        for _ in range(INNER):
            back = self.backward(*self.forward(along, turn))
            ahead, beside = back[0] + damped * along, back[1] + damping * corner * turn
            pace = size / ((along * ahead).sum() + turn * beside).clamp_min(1e-300)
            x, factor = x + pace * along, factor + pace * turn
            left, other = left - pace * ahead, other - pace * beside
            near = torch.cholesky_solve(left[..., None], factorised)[..., 0]
            beside_near = other / corner / (1 + damping)
            before, size = size, (left * near).sum() + other * beside_near
            if not bool(size > CLOSE**2 * first):
                break
            along, turn = near + size / before * along, beside_near + size / before * turn
        return x, factor
