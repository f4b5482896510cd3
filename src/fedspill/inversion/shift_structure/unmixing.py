"""Each example's own map out of the span of all maps of a batch, by what the layers above make of it.

The span of B maps leaves B numbers an example. The layers above are known, and so is what they put out for every
example: its features at the head. Levenberg-Marquardt finds the numbers, from several starts at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn, stream

STARTS = 2
"""At once: nearly every one of them leads to the map, in about five steps."""
ROUNDS = 12
"""Of fresh starts, where none of those before was right."""
STEPS = 40
SETTLED = 1e-2
"""Relative change of the squared error of a right map, below which only rounding is left of it."""
STUCK = 1e-6
"""The same of a wrong one."""
HINGE = 0.1
"""Weight of negative values of a map that has none, relative to the features."""
MOST_DAMPED = 1e6
"""Damping at which a step leads nowhere."""
DIFFERENCE = 1e-6
"""Relative step of the derivatives by differences, in float64."""
ZEROS = (1e-4, 1e-5)
"""Shares of the root mean square below which a value of a map is taken for zero, one after the other."""
ENOUGH_ZEROS = 20
"""Zeros a coefficient from which on they tell it."""
FOUND = 1e-4
"""Relative error of the features up to which an example counts as found."""
NEARLY, SAME = 0.1, 1.02
"""Relative error up to which features may be the ones that are off, and the ratio of squared errors up to which two
starts have led to the same map: where they have, no other start leads to a better one."""


@dataclass(frozen=True)
class Unmixed:
    """Maps of single examples.

    Attributes:
        maps: in the order of the features.
        misfit: relative error of what the layers above make of each.
    """

    maps: Float[Tensor, "b i h w"]
    misfit: Float[Tensor, " b"]


@dataclass(frozen=True)
class _Fit:
    """One example's fit: residuals of stacked coefficients.

    Attributes:
        above: from maps (n, i, h, w) to features (n, d).
        maps: the span, of root mean square 1.
        target: (d), the features.
        hinge: weight of negative values; 0 where the map may have some.
    """

    above: Callable[[Tensor], Tensor]
    maps: Float[Tensor, "b i h w"]
    target: Float[Tensor, " d"]
    hinge: float

    def residuals(self, c: Float[Tensor, "n b"]) -> Float[Tensor, "n e"]:
        """Relative to the features."""
        x = (c @ self.maps.flatten(1)).reshape(-1, *self.maps.shape[1:])
        off = (self.above(x).flatten(1) - self.target) / self.target.norm()
        if not self.hinge:
            return off
        below = x.flatten(1).clamp_max(0) / x.flatten(1).norm(dim=1, keepdim=True)
        return torch.cat([off, self.hinge * below], 1)

    def derivative(self, c: Float[Tensor, "n b"], at: Float[Tensor, "n e"]) -> Float[Tensor, "n b e"]:
        """By differences, which any network's operations allow."""
        step = DIFFERENCE * c.norm(dim=1).clamp_min(1e-30)
        moved = c[:, None] + step[:, None, None] * torch.eye(c.shape[1], dtype=c.dtype, device=c.device)
        return (self.residuals(moved.flatten(0, 1)).reshape(*moved.shape[:2], -1) - at[:, None]) / step[:, None, None]


def unmixed(
    above: Callable[[Tensor], Tensor],
    span: Float[Tensor, "b i h w"],
    features: Float[Tensor, "b d"],
    *,
    non_negative: bool,
) -> Unmixed:
    """The map of every example.

    Args:
        above: what the layers above make of maps (n, i, h, w): (n, ...), as many values as features.
        span: a basis of the span of the maps.
        features: of every example.
        non_negative: the maps come from a ReLU.
    """
    span = span / span.pow(2).mean().sqrt()
    found = [_one(_Fit(above, span, h, HINGE if non_negative else 0.0), number) for number, h in enumerate(features)]
    coefficients = torch.stack([c for c, _ in found])
    if non_negative:
        coefficients = _polished(coefficients, span.flatten(1))
    maps = (coefficients @ span.flatten(1)).reshape(len(features), *span.shape[1:])
    off = (above(maps).flatten(1) - features).norm(dim=1) / features.norm(dim=1)
    return Unmixed(maps, off)


def _polished(coefficients: Float[Tensor, "b b"], span: Float[Tensor, "b e"]) -> Float[Tensor, "b b"]:
    """Coefficients that put to zero, as far as they can, what is nearly zero in every map.

    Many values of a ReLU are zero, in each example others, so that they tell mixtures better than the features do.
    """
    size = span.shape[1] ** 0.5
    for share in ZEROS:
        polished = list[Tensor]()
        for c in coefficients:
            value = c @ span
            zero = value.abs() <= share * value.norm() / size
            # Along the map itself all these values stay zero, so that its factor is kept.
            across = span[:, zero] - torch.outer(c, c @ span[:, zero]) / c.square().sum()
            products = torch.linalg.pinv(across @ across.T, rtol=1e-10, hermitian=True)
            fit = products @ (across @ value[zero])
            fit = fit - c * (c @ fit) / c.square().sum()
            polished.append(c - fit if int(zero.sum()) > ENOUGH_ZEROS * len(c) else c)
        coefficients = torch.stack(polished)
    return coefficients


def _one(fit: _Fit, number: int) -> tuple[Tensor, float]:
    best, error, reached = fit.maps.new_zeros(len(fit.maps)), float("inf"), list[float]()
    for attempt in range(ROUNDS):
        c, off = _descended(fit, _starts(fit, number * ROUNDS + attempt))
        at = int(off.argmin())
        if float(off[at]) < error:
            best, error = c[at], float(off[at])
        reached += off.tolist()
        again = sum(e <= SAME * error for e in reached) > 1
        if error < FOUND**2 or (again and error < NEARLY**2):
            break
    return best, error


def _starts(fit: _Fit, seed: int) -> Tensor:
    """Random coefficients whose maps have a positive sum, at the scale at which the features' size is right."""
    c = randn((STARTS, len(fit.maps)), stream(seed, "unmixing"), fit.maps)
    sums = c @ fit.maps.sum((1, 2, 3))
    c = c * sums.sign()[:, None] if fit.hinge else c
    for _ in range(3):
        size = (fit.residuals(c)[:, : len(fit.target)] * fit.target.norm() + fit.target).norm(dim=1)
        c = c * (fit.target.norm() / size.clamp_min(1e-30)).clamp(0.1, 10)[:, None]
    return c


def _descended(fit: _Fit, c: Tensor) -> tuple[Tensor, Tensor]:
    """Levenberg-Marquardt from each start; the coefficients and their squared errors."""
    off = fit.residuals(c)
    error, damping = off.pow(2).sum(1), torch.full_like(c[:, 0], 1e-2)
    for _ in range(STEPS):
        tried = c - _step(fit.derivative(c, off), off, damping)
        off_tried = fit.residuals(tried)
        error_tried = off_tried.pow(2).sum(1)
        better = error_tried < error
        gain = (error - error_tried).clamp_min(0) / error
        c, off = tried.where(better[:, None], c), off_tried.where(better[:, None], off)
        error = error_tried.where(better, error)
        damping = torch.where(better, damping / 4, damping * 6).clamp(1e-14, 1e9)
        right = error < FOUND**2
        if bool((right & (gain < SETTLED)).any()) or bool((better & (gain < STUCK) | (damping > MOST_DAMPED)).all()):
            break
    return c, error


def _step(j: Float[Tensor, "n b e"], off: Float[Tensor, "n e"], damping: Float[Tensor, " n"]) -> Float[Tensor, "n b"]:
    normal, slope = j @ j.transpose(1, 2), (j @ off[..., None])[..., 0]
    scale = normal.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-30)
    eye = torch.eye(j.shape[1], dtype=j.dtype, device=j.device)
    return torch.linalg.solve(normal + (damping * scale)[:, None, None] * eye, slope)
