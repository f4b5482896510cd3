"""Which of many sentences were there together: those whose rows explain the most of a later layer's gradient.

Noise lets more sentences pass than there were, mixtures of those that were. What a mixture explains, its parts do, too.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.subspace.growing import Check, Sentences

DEPENDENT = 1e-9
"""Share of a row's length that must be new, for the row to be one."""
ABOVE = 4.0
"""Times the noise of its new rows that a sentence must explain, to be one."""


def selected(model: Model, check: Check, values: Params, found: Sentences, wanted: int | None) -> Sentences:
    """The sentences that explain the most, one after the other, until as many as wanted or all but noise is explained.

    Args:
        model: as sent.
        check: the layer at which they were checked.
        values: mean gradients, float64.
        found: candidates.
        wanted: sentences, if known; copies of one count once, so there may be fewer.
    """
    if len(found.tokens) <= (1 if wanted is None else wanted) and _fits(check, found):
        return found
    gradient = check.reader.gradient(values)
    gradient = gradient[gradient.norm(dim=1) > 0]
    if check.space.even:
        gradient = gradient / gradient.norm(dim=1, keepdim=True)
    rows = check.reader.rows(model, found.tokens)
    floor = ABOVE * check.space.noise**2 * len(gradient)
    basis, chosen = rows.new_zeros(0, rows.shape[2]), list[int]()
    while len(chosen) < len(rows) and (wanted is None or len(chosen) < wanted):
        new = [None if i in chosen else _new(basis, rows[i, : int(found.lengths[i])]) for i in range(len(rows))]
        gains = [-1.0 if b is None else float((gradient @ b.T).square().sum()) - floor * len(b) for b in new]
        best = max(range(len(gains)), key=gains.__getitem__)
        added = new[best]
        if gains[best] <= 0 or added is None or len(basis) + len(added) >= check.reader.capacity:
            break
        chosen.append(best)
        basis = torch.cat([basis, added])
    return _only(found, torch.tensor(chosen, dtype=torch.long, device=found.tokens.device))


def _fits(check: Check, found: Sentences) -> bool:
    return found.tokens.numel() < check.reader.capacity


def _new(basis: Float[Tensor, "r d"], rows: Float[Tensor, "t d"]) -> Float[Tensor, "k d"]:
    """An orthonormal basis of what rows add to a space."""
    length = rows.norm(dim=1, keepdim=True).clamp_min(1e-300)
    left = rows / length
    for _ in range(2):  # once more, as rounding leaves some of what was taken away
        left = left - (left @ basis.T) @ basis
    _, size, directions = torch.linalg.svd(left, full_matrices=False)
    return directions[size > max(DEPENDENT, DEPENDENT * float(size[:1].sum()))]


def _only(found: Sentences, places: Int[Tensor, " k"]) -> Sentences:
    return Sentences(found.tokens[places], found.excess[places], found.lengths[places])
