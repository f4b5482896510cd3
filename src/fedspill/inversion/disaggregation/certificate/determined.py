"""How far rounding or noise may move each example of a solution: what the equations leave open.

Examples of one class differ in directions that the gradient shows weakly, so that a residual as small as rounding does
not say that they are right.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.dense import normal_equations
from fedspill.inversion.disaggregation.point import Rules, point
from fedspill.inversion.disaggregation.system import System

MOST = 32
"""Examples up to which this is computed: the normal equations have m^2 unknowns."""
FLOOR = 1e-13
"""Share of the largest eigenvalue below which a direction is not determined at all."""


def directions(
    known: System, mixing: Float[Tensor, "m m"], factor: Float[Tensor, ""], entry: float
) -> Float[Tensor, "m m u"]:
    """How far each direction of a relative step is uncertain, one standard deviation long: [example, other, direction].

    Args:
        known: the equations.
        mixing: that solves them.
        factor: of the update.
        entry: standard deviation of what disturbs each entry of the gradient, over the gradient's size.
    """
    m = len(mixing)
    matrix, _ = normal_equations(known, point(known, mixing[None], factor[None], 0.0), Rules())
    values, vectors = torch.linalg.eigh(matrix[0])
    return (vectors * (entry / values.clamp_min(FLOOR * values[-1]).sqrt())).reshape(m, m, -1)


def deviations(
    known: System, mixing: Float[Tensor, "m m"], factor: Float[Tensor, ""], entry: float
) -> Float[Tensor, " m"]:
    """The standard deviation of each example's features over their distance from the others' mean; inf past `MOST`.

    The arguments are those of `directions`.
    """
    features = known.features(mixing)
    if len(mixing) > MOST:
        return torch.full_like(features[:, 0], torch.inf)
    root = directions(known, mixing, factor, entry)
    moved = torch.einsum("abu,bc,acu->a", root, features @ features.T, root).clamp_min(0).sqrt()
    return moved / apart(features)


def apart(features: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """How far each example is from the mean of all; a single one from 0."""
    return (features - features.mean(0) if len(features) > 1 else features).norm(dim=1).clamp_min(1e-300)
