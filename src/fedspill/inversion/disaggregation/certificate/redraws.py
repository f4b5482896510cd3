"""How far noise moves each example: the solution's own gradient with fresh noise, solved again a few times.

What disturbs a gradient shows in its spectrum beyond the examples, and in what the equations miss. The spread of the
solutions of gradients that are disturbed alike is then the error that is to be expected.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn, stream
from fedspill.inversion.disaggregation.certificate.determined import apart, directions
from fedspill.inversion.disaggregation.solving import Solved
from fedspill.inversion.disaggregation.system import System

DRAWS = 12
"""Gradients that are solved again."""
LOST = 3.0
"""Times the median residual beyond which a redraw was not solved; the solution itself is known to fit."""
FARTHEST = 0.3
"""Size of a relative step at most by which a redraw is begun away from the solution."""


@dataclass(frozen=True)
class Redrawn:
    """Solutions of gradients that are disturbed alike.

    Attributes:
        features: of each.
        errors: the derivatives of the batch's mean loss by the logits, at the solution's factor.
        residual: of each, relative to the gradient.
    """

    features: Float[Tensor, "r m d"]
    errors: Float[Tensor, "r m classes"]
    residual: Float[Tensor, " r"]

    def spread(self, features: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
        """The error that is to be expected of each example, over its distance from the others' mean."""
        return (self.features - features).square().sum(2).mean(0).sqrt() / apart(features)


def redrawn(
    known: System,
    mixing: Float[Tensor, "m m"],
    factor: Float[Tensor, ""],
    noise: tuple[float, float],
    placed: Callable[[Float[Tensor, "classes k"]], System],
    solved: Callable[[System, Float[Tensor, "s m m"]], Solved],
) -> Redrawn:
    """Solves again, and leaves out what was not solved.

    Args:
        known: the equations.
        mixing: that solves them.
        factor: of the update.
        noise: standard deviation of what disturbs an entry of the weighed equations: of what lies in the row space, and
            of the rest, which is no larger.
        placed: the equations of a gradient.
        solved: how such equations are solved from starts.
    """
    rng, m, (inside, outside) = stream(0, "redraws"), len(mixing), noise
    whole = mixing @ known.basis
    clean = factor * known.derivatives(known.probabilities(mixing)).T @ whole
    by_class = 1 / known.scale[:, None]
    open_to = directions(known, mixing, factor, inside / float(known.seen.norm().clamp_min(1e-300)))
    features, errors, residual = list[Tensor](), list[Tensor](), list[Tensor]()
    for _ in range(DRAWS):
        step = open_to @ randn((m * m,), rng, mixing)
        step *= (FARTHEST / step.norm().clamp_min(1e-300)).clamp_max(1)
        there = outside * by_class * randn(tuple(clean.shape), rng, clean)
        within = max(0.0, inside**2 - outside**2) ** 0.5 * by_class
        more = (within * randn(tuple(known.seen.shape), rng, clean)) @ known.basis
        here = placed(clean + there + more)
        found = solved(here, ((whole + step @ whole) @ here.basis.T)[None])
        features.append(here.features(found.mixing[0]))
        errors.append(found.factor[0] / factor * here.derivatives(here.probabilities(found.mixing[0])))
        residual.append(found.residual[0])
    missed = torch.stack(residual)
    kept = missed <= LOST * missed.median()
    return Redrawn(torch.stack(features)[kept], torch.stack(errors)[kept], missed[kept])
