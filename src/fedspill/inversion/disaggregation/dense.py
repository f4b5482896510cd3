"""The normal equations written out, for small batches and many starts at once.

With G = M M^T every entry of J^T J is a product of entries of a few small matrices, so that no Jacobian is formed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.point import Point, Rules, Slopes
from fedspill.inversion.disaggregation.system import System


def dense_step(
    known: System, here: Point, damping: Float[Tensor, " s"], rules: Rules
) -> tuple[Float[Tensor, "s m m"], Float[Tensor, " s"]]:
    """The relative step of each start, and that of the factor's logarithm; 0 where none can be computed."""
    matrix, slope = normal_equations(known, here, rules)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-300)
    damped = matrix + torch.diag_embed(damping[:, None] * diagonal.clamp_min(floor) + 1e-3 * floor)
    factorised, failed = torch.linalg.cholesky_ex(damped.nan_to_num(torch.inf))
    step = -torch.cholesky_solve(slope[..., None], factorised)[..., 0]
    step = torch.where((failed == 0)[:, None] & step.isfinite(), step, torch.zeros_like(step))
    m = here.mixing.shape[1]
    return step[:, : m * m].reshape(-1, m, m), step[:, -1] if rules.free else torch.zeros_like(damping)


def normal_equations(known: System, here: Point, rules: Rules) -> tuple[Tensor, Tensor]:
    """J^T J and J^T of the residual, (s, m m, m m) and (s, m m); with one more unknown where the factor is free."""
    slopes = Slopes.of(known, here, rules.hinge)
    moves, gram = slopes.moves(here.probabilities), here.mixing @ here.mixing.mT
    s, m, _, classes = moves.shape
    flat = moves.reshape(s, m * m, classes)
    matrix = (flat @ flat.mT).reshape(s, m, m, m, m) * gram[:, :, None, :, None]
    crossed = (flat @ here.errors.mT).reshape(s, m, m, m, 1) * gram[:, :, None, None, :]
    matrix += crossed
    matrix += crossed.permute(0, 3, 4, 1, 2)
    matrix += (here.errors @ here.errors.mT)[:, :, None, :, None] * gram[:, None, :, None, :]
    own = torch.arange(m, device=gram.device)
    rows = slopes.gate[:, :, None] * slopes.features[:, None]
    matrix[:, own, :, own] += (slopes.ones[:, :, None] * slopes.ones[:, None])[None]
    matrix[:, own, :, own] += (rows @ slopes.features.mT[:, None]).transpose(0, 1)
    along = _back(moves, here, here.missed) + here.unit[..., None] * slopes.ones[:, None]
    along = along + here.negative @ slopes.features.mT
    matrix, along = matrix.reshape(s, m * m, m * m), along.reshape(s, m * m)
    return _bordered(matrix, along, moves, here) if rules.free else (matrix, along)


def _back(moves: Tensor, here: Point, missed: Tensor) -> Tensor:
    """J^T of something of the shape of the gradient."""
    seen = missed @ here.mixing.mT
    return torch.einsum("sabc,sca->sab", moves, seen) + here.errors @ seen


def _bordered(matrix: Tensor, along: Tensor, moves: Tensor, here: Point) -> tuple[Tensor, Tensor]:
    shown = here.errors.mT @ here.mixing  # the derivative by the factor's logarithm
    cross = _back(moves, here, shown).flatten(1)
    upper = torch.cat([matrix, cross[:, :, None]], 2)
    lower = torch.cat([cross[:, None], shown.square().sum((1, 2))[:, None, None]], 2)
    return torch.cat([upper, lower], 1), torch.cat([along, (shown * here.missed).sum((1, 2))[:, None]], 1)
