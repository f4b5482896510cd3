"""The same step by conjugate gradients, for large batches: nothing larger than m x m x classes is ever held.

The preconditioner is the block of the normal equations of each class's examples.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.inversion.disaggregation.point import Point, Rules, Slopes
from fedspill.inversion.disaggregation.system import System

CLOSE = 1e-3
"""Share of the first residual at which the inner iterations end."""
INNER = 500
"""Inner iterations at most."""
TOGETHER = 6
"""Examples of one class in a block at most."""


def matrix_free_step(
    known: System, here: Point, damping: Float[Tensor, " s"], rules: Rules
) -> tuple[Float[Tensor, "s m m"], Float[Tensor, " s"]]:
    """The relative step of each start, one after the other, and that of the factor's logarithm."""
    index = torch.arange(len(damping), device=damping.device)[:, None]
    steps = [Equations(known, here.at(i), rules).step(damping[i[0]]) for i in index]
    return torch.stack([s[0] for s in steps]), torch.stack([s[1] for s in steps])


class Equations:
    """J of one start as a function, its transpose, and blocks of J^T J."""

    def __init__(self, known: System, here: Point, rules: Rules) -> None:
        slopes = Slopes.of(known, here, rules.hinge)
        self.here, self.free, self.mixing, self.errors = here, rules.free, here.mixing[0], here.errors[0]
        self.p, self.logits, self.slope = here.probabilities[0], slopes.logits[0], slopes.slope[0]
        self.ones, self.gate, self.features = slopes.ones[0], slopes.gate[0], slopes.features[0]
        self.moves = slopes.moves(here.probabilities)[0]
        self.shown, self.labels = self.errors.T @ self.mixing, known.target.argmax(1)

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

    def block(self, index: Int[Tensor, "g n"]) -> Float[Tensor, "g size size"]:
        """J^T J of the rows of X of some examples, for many groups of them."""
        g, n, m = *index.shape, len(self.mixing)
        gram, errors = self.mixing @ self.mixing.T, self.errors[index]
        flat = self.moves[index].reshape(g, n * m, -1)
        within = gram[index[:, :, None], index[:, None]]
        matrix = (flat @ flat.mT).reshape(g, n, m, n, m) * within[:, :, None, :, None]
        crossed = (flat @ errors.mT).reshape(g, n, m, n, 1) * gram[index][:, :, None, None]
        matrix = matrix + crossed + crossed.permute(0, 3, 4, 1, 2)
        matrix = matrix + (errors @ errors.mT)[:, :, None, :, None] * gram[:, None]
        own = torch.arange(n, device=index.device)
        hinge = (self.gate[index][:, :, None] * self.features) @ self.features.T
        matrix[:, own, :, own] += (hinge + torch.outer(self.ones, self.ones)).transpose(0, 1)
        return matrix.reshape(g, n * m, n * m)

    def step(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """The damped Gauss-Newton step."""
        near, corner = _Preconditioner(self, damping), self.shown.square().sum()
        if near.failed:
            return torch.zeros_like(self.mixing), torch.zeros_like(damping)
        down = self.backward(self.here.missed[0], self.here.unit[0], self.here.negative[0])
        left, other = -down[0], -down[1]
        x, factor = torch.zeros_like(left), torch.zeros_like(other)
        along, turn = near.solved(left), other / corner / (1 + damping)
        size = first = (left * along).sum() + other * turn
        for _ in range(INNER):
            back = self.backward(*self.forward(along, turn))
            ahead, beside = back[0] + near.damped * along, back[1] + damping * corner * turn
            pace = size / ((along * ahead).sum() + turn * beside).clamp_min(1e-300)
            x, factor = x + pace * along, factor + pace * turn
            left, other = left - pace * ahead, other - pace * beside
            again, beside_again = near.solved(left), other / corner / (1 + damping)
            before, size = size, (left * again).sum() + other * beside_again
            if not bool(size > CLOSE**2 * first):
                break
            along, turn = again + size / before * along, beside_again + size / before * turn
        return x, factor


class _Preconditioner:
    """The blocks of examples of one class, which differ in directions that a single one's block holds for strong."""

    def __init__(self, equations: Equations, damping: Tensor) -> None:
        self.groups = _groups(equations.labels)
        blocks = [equations.block(index) for index in self.groups]
        diagonal = torch.zeros_like(equations.mixing)
        for index, block in zip(self.groups, blocks, strict=True):
            diagonal[index] = block.diagonal(dim1=1, dim2=2).reshape(*index.shape, -1)
        floor = 1e-12 * diagonal.max().clamp_min(1e-300)
        self.damped = damping * diagonal.clamp_min(floor) + 1e-3 * floor
        self.factors, self.failed = list[Tensor](), False
        for index, block in zip(self.groups, blocks, strict=True):
            more = torch.diag_embed(self.damped[index].flatten(1))
            factor, failed = torch.linalg.cholesky_ex((block + more).nan_to_num(torch.inf))
            self.factors.append(factor)
            self.failed = self.failed or bool(failed.any())

    def solved(self, x: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
        """What the blocks alone would make of a right-hand side."""
        out = torch.empty_like(x)
        for index, factor in zip(self.groups, self.factors, strict=True):
            out[index] = torch.cholesky_solve(x[index].flatten(1)[..., None], factor).reshape(*index.shape, -1)
        return out


def _groups(labels: Int[Tensor, " m"]) -> list[Int[Tensor, "g n"]]:
    """Numbers of examples of one class, at most `TOGETHER` in a group, by the size of the group."""
    groups = dict[int, list[Tensor]]()
    for label in labels.unique():
        for part in (labels == label).nonzero()[:, 0].split(TOGETHER):
            groups.setdefault(len(part), []).append(part)
    return [torch.stack(same) for same in groups.values()]
