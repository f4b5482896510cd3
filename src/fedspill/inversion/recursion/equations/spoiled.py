"""Which equations of a linear system are wrong, where it has many right-hand sides.

What is left of the right-hand sides after least squares lies in the span of what the wrong equations leave, and a wrong
equation is one whose own share of what can be left lies in that span too (as directions are told from a signal's
subspace, Schmidt's MUSIC, 1986). This finds all wrong ones at once, while they are fewer than the spare equations.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LEFT = 10.0
"""Times the median singular value of what is left from which on one belongs to wrong equations."""
ROUNDING = 1e-6
"""Share of the right-hand sides up to which what is left is rounding."""
INSIDE = 0.05
"""Share of an equation's direction that may lie outside of their span."""
FREE = 1e-6
"""Share of an equation that the solution must not be able to fit, so that something is left of it at all."""


def spoiled(rows: Float[Tensor, "e f"], targets: Float[Tensor, "e c"]) -> Bool[Tensor, " e"]:
    """The equations that contradict the others; none where too many do."""
    basis, _ = torch.linalg.qr(rows)
    rest = targets - basis @ (basis.T @ targets)
    wrong, values, _ = torch.linalg.svd(rest, full_matrices=False)
    used = int(((rows != 0).any(1) | (targets != 0).any(1)).sum())  # a silent unit's equation is 0 = 0
    spare = min(used - rows.shape[1], len(values))
    level = max(float(values[:spare].median()) * LEFT, ROUNDING * float(targets.norm())) if spare > 0 else 0.0
    rank = int((values > level).sum()) if spare > 0 else 0
    nothing = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
    if rank == 0 or 2 * rank > spare:
        return nothing
    free = 1 - basis.square().sum(1)
    inside = wrong[:, :rank].square().sum(1)
    return (free > FREE) & (free - inside < INSIDE * free)
