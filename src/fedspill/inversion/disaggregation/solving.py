"""Levenberg-Marquardt for the mixing, in float64, from many starts at once.

Steps are relative, M + X M with unknown X (m, m), so that features of unlike size and examples of unlike loudness are
alike to them. The normal equations are written down without their Jacobian: with L = M K the logits and G = M M^T
every entry of J^T J is a product of a few small matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.system import System

HIGH, LOW = 1e8, 1e-14
"""Bounds of the damping."""
STALLED = 1e-4
"""Relative gain of a step below which a start has come to its end, several times in a row."""
PATIENCE = 8
"""Steps in a row that gain nothing, after which a start is left."""


@dataclass(frozen=True)
class Solved:
    """Guesses of the mixing, and how well each fits.

    Attributes:
        mixing: M, one per start.
        factor: of the update over the mean gradient; 1 where that is known.
        residual: ||f D^T M - T|| / ||T|| together with the error of M r = 1.
        cost: the same with what negative features add; what was minimised.
    """

    mixing: Float[Tensor, "s m m"]
    factor: Float[Tensor, " s"]
    residual: Float[Tensor, " s"]
    cost: Float[Tensor, " s"]

    def at(self, index: Tensor) -> "Solved":
        """Some of the starts."""
        return Solved(self.mixing[index], self.factor[index], self.residual[index], self.cost[index])

    def best_first(self) -> "Solved":
        """The same in the order of their cost."""
        return self.at(self.cost.nan_to_num(torch.inf).argsort())


@dataclass(frozen=True)
class Rules:
    """What is minimised, and until when.

    Attributes:
        hinge: weight of negative features relative to their size; 0 lets features have any sign.
        free: the factor of the update is unknown, too.
        steps: at most.
        enough: residual at which a start is done.
    """

    hinge: float = 0.0
    free: bool = False
    steps: int = 200
    enough: float = 1e-12


@dataclass(frozen=True)
class _Point:
    """Where the starts are: what the equations and their derivatives are made of."""

    mixing: Tensor
    factor: Tensor
    probabilities: Tensor
    errors: Tensor
    missed: Tensor
    unit: Tensor
    negative: Tensor | None
    size: float

    def residual(self) -> Tensor:
        return (self.missed.square().sum((1, 2)) + self.unit.square().mean(1)).sqrt()

    def cost(self) -> Tensor:
        hinge = 0.0 if self.negative is None else self.negative.square().sum((1, 2))
        return self.missed.square().sum((1, 2)) + self.unit.square().mean(1) + hinge


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
        rules: what is minimised.
        is_up: whether the time is over.
    """
    here = _at(known, mixing, factor, rules)
    damping = torch.full_like(factor, 1e-2)
    idle = torch.zeros_like(factor)
    for _ in range(rules.steps):
        active = ((idle < PATIENCE) & (here.residual() > rules.enough)).nonzero()[:, 0]
        if not len(active) or is_up():
            break
        moved, gain = _step(known, _some(here, active), damping[active], rules)
        better = gain > 0
        _put(here, active[better], moved, better)
        damping[active] = torch.where(better, damping[active] / 4, damping[active] * 5).clamp(LOW, HIGH)
        idle[active] = torch.where(gain > STALLED, torch.zeros_like(gain), idle[active] + 1)
    return Solved(here.mixing, here.factor, here.residual(), here.cost())


def _at(known: System, mixing: Tensor, factor: Tensor, rules: Rules) -> _Point:
    probabilities = known.probabilities(mixing)
    errors = known.errors(probabilities)
    size = float(known.seen.norm())
    missed = (factor[:, None, None] * errors.mT @ mixing - known.seen) / size
    unit = mixing @ known.ones - 1 if known.affine else mixing.new_zeros(mixing.shape[:2])
    negative = None
    if rules.hinge:
        features = known.features(mixing)
        length = features.norm(dim=(1, 2), keepdim=True).detach().clamp_min(1e-300)
        negative = rules.hinge * features.clamp_max(0) / length
    return _Point(mixing, factor, probabilities, errors, missed, unit, negative, size)


def _some(point: _Point, index: Tensor) -> _Point:
    negative = None if point.negative is None else point.negative[index]
    return replace(
        point,
        mixing=point.mixing[index],
        factor=point.factor[index],
        probabilities=point.probabilities[index],
        errors=point.errors[index],
        missed=point.missed[index],
        unit=point.unit[index],
        negative=negative,
    )


def _put(point: _Point, index: Tensor, other: _Point, chosen: Tensor) -> None:
    for name in ("mixing", "factor", "probabilities", "errors", "missed", "unit", "negative"):
        values = getattr(point, name)
        if values is not None:
            values[index] = getattr(other, name)[chosen]


def _step(known: System, here: _Point, damping: Tensor, rules: Rules) -> tuple[_Point, Tensor]:
    matrix, slope = normal_equations(known, here, rules)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = 1e-12 * diagonal.amax(1, keepdim=True).clamp_min(1e-300)
    damped = matrix + torch.diag_embed(damping[:, None] * diagonal.clamp_min(floor) + floor * 1e-3)
    factorised, failed = torch.linalg.cholesky_ex(damped)
    step = -torch.cholesky_solve(slope[..., None], factorised)[..., 0]
    step = torch.where((failed == 0)[:, None] & step.isfinite(), step, torch.zeros_like(step))
    m = here.mixing.shape[1]
    relative = step[:, : m * m].reshape(-1, m, m)
    factor = here.factor * step[:, -1].clamp(-1, 1).exp() if rules.free else here.factor
    moved = _at(known, here.mixing + relative @ here.mixing, factor, rules)
    before, after = here.cost(), moved.cost().nan_to_num(torch.inf)
    return moved, (before - after) / before.clamp_min(1e-300)


def normal_equations(known: System, here: _Point, rules: Rules) -> tuple[Tensor, Tensor]:
    """J^T J (s, m m, m m) and J^T of the residual, by the relative step X; one more unknown for the factor's log."""
    p, errors, mixing = here.probabilities, here.errors, here.mixing
    s, m, c = p.shape
    logits = mixing @ known.keys
    # moves[a, :, b]: what one unit of X[a, b] does to the errors of example a.
    centred = logits[:, None] - (p[:, :, None] * logits[:, None]).sum(-1, keepdim=True)
    scale = here.factor[:, None, None] / here.size
    moves = known.slope[:, None, None] * p[:, :, None] * centred
    moves = scale[..., None] * moves  # (s, a, b, c)
    errors = scale * errors
    gram = mixing @ mixing.mT
    flat = moves.reshape(s, m * m, c)
    matrix = (flat @ flat.mT).reshape(s, m, m, m, m) * gram[:, :, None, :, None]
    mixed = (flat @ errors.mT).reshape(s, m, m, m)  # [a, b, a']
    mixed = mixed[..., None] * gram[:, :, None, None, :]
    matrix = matrix + mixed + mixed.permute(0, 3, 4, 1, 2)
    matrix = matrix + (errors @ errors.mT)[:, :, None, :, None] * gram[:, None, :, None, :]
    seen = here.missed @ mixing.mT  # (s, c, m)
    slope = torch.einsum("sabc,sca->sab", moves, seen) + errors @ seen
    index = torch.arange(m, device=p.device)
    if known.affine:
        ones = mixing @ known.ones
        matrix[:, index, :, index] += (ones[:, :, None] * ones[:, None, :])[None] / m
        slope = slope + here.unit[:, :, None] * ones[:, None, :] / m
    if here.negative is not None:
        features = known.features(mixing)
        size = features.norm(dim=(1, 2))
        gate = (features < 0).to(features)  # (s, a, d)
        weight = rules.hinge / size[:, None, None]
        blocks = torch.einsum("sad,sbd,sed->sabe", gate, weight * features, weight * features)
        matrix[:, index, :, index] += blocks.transpose(0, 1)
        slope = slope + here.negative @ (weight * features).mT
    matrix, slope = matrix.reshape(s, m * m, m * m), slope.reshape(s, m * m)
    return (matrix, slope) if not rules.free else _bordered(matrix, slope, here, moves, errors)


def _bordered(matrix: Tensor, slope: Tensor, here: _Point, moves: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    shown = errors.mT @ here.mixing  # of the log of the factor
    seen = shown @ here.mixing.mT
    cross = (torch.einsum("sabc,sca->sab", moves, seen) + errors @ seen).flatten(1)
    corner = shown.square().sum((1, 2))[:, None, None]
    upper = torch.cat([matrix, cross[:, :, None]], 2)
    lower = torch.cat([cross[:, None, :], corner], 2)
    along = (shown * here.missed).sum((1, 2))[:, None]
    return torch.cat([upper, lower], 1), torch.cat([slope, along], 1)
