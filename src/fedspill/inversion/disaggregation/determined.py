"""How far rounding or noise may move each example of a solution: what the equations leave open.

Examples of one class differ in directions that the gradient shows weakly, so that a residual as small as rounding does
not say that they are right.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.inversion.disaggregation.dense import normal_equations
from fedspill.inversion.disaggregation.point import Rules, point
from fedspill.inversion.disaggregation.system import System

MOST = 32
"""Examples up to which this is computed: the normal equations have m^2 unknowns."""
ZERO, SPARE = 1e-3, 4
"""Share of an example's root mean square below which a feature is 0, and zeros needed beyond those of chance."""
FLOOR = 1e-13
"""Share of the largest eigenvalue below which a direction is not determined at all."""


def deviations(
    known: System, mixing: Float[Tensor, "m m"], factor: Float[Tensor, ""], residual: float
) -> Float[Tensor, " m"]:
    """The standard deviation of each example's features over their distance from the others' mean; inf past `MOST`.

    Args:
        known: the equations.
        mixing: that solves them.
        factor: of the update.
        residual: relative to the gradient, taken as the size of what disturbs it.
    """
    m, classes = known.target.shape
    features = known.features(mixing)
    if m > MOST:
        return torch.full_like(features[:, 0], torch.inf)
    here = point(known, mixing[None], factor[None], 0.0)
    matrix, _ = normal_equations(known, here, Rules())
    values, vectors = torch.linalg.eigh(matrix[0])
    weight = 1 / values.clamp_min(FLOOR * values[-1]).sqrt()
    root = (vectors * weight).reshape(m, m, -1)  # [a, b, direction]
    moved = torch.einsum("abu,bc,acu->a", root, features @ features.T, root).clamp_min(0).sqrt()
    entry = residual / max(1.0, (classes - 1) * m) ** 0.5
    apart = features - features.mean(0) if m > 1 else features
    return entry * moved / apart.norm(dim=1).clamp_min(1e-300)


def sparse(features: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
    """Examples with more features at 0 than the m x m mixing could put there by chance, which pins them down.

    An example is a combination of m directions, so that m - 1 zeros can always be had.
    """
    level = ZERO * features.square().mean(1, keepdim=True).sqrt()
    return (features.abs() <= level).sum(1) >= len(features) + SPARE
