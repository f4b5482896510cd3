"""How many examples of each class a batch holds, where one head gives all of them the same probabilities.

The gradient of bias c is then p_c - n_c / n, with p known.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge

WHOLE = 0.02
"""How far numbers of examples may be off whole ones."""
ROUNDING = 1e-3
"""The same where the number of all examples is looked for, of which many would nearly fit."""
MOST = 4096
"""Examples up to which their number is looked for, where it is not known."""


def members(biases: Float[Tensor, " k"], everyone: Float[Tensor, " k"], knowledge: ServerKnowledge) -> list[int] | None:
    """Examples of each class; None where the update's scale is not that of a mean.

    Where the number of examples is not known it is the smallest by which all shares are whole numbers.

    Args:
        biases: the mean gradient of the head's bias.
        everyone: probabilities of the classes, of any example.
    """
    if knowledge.labels is not None and knowledge.labels.ndim == 1 and not knowledge.labels.is_floating_point():
        return torch.bincount(knowledge.labels.cpu(), minlength=len(biases)).tolist()
    shares = (everyone.to(biases) - biases).cpu()
    if knowledge.num_examples is not None:
        return _whole(shares, knowledge.num_examples, WHOLE)
    return next((c for n in range(1, MOST + 1) if (c := _whole(shares, n, ROUNDING)) is not None), None)


def _whole(shares: Float[Tensor, " k"], number: int, tolerance: float) -> list[int] | None:
    expected = shares * number
    nearest = expected.round()
    fits = bool((expected - nearest).abs().max() < tolerance) and bool((nearest >= 0).all())
    return [int(c) for c in nearest] if fits and int(nearest.sum()) == number else None


def rarest(counts: list[int]) -> int:
    """The class with the fewest examples, of equals the first."""
    return min(range(len(counts)), key=lambda c: counts[c])


def easiest(counts: list[int], fished: frozenset[int]) -> int:
    """A class with one example that was not fished for yet; without one any with one example, or with the fewest."""
    single = [c for c, n in enumerate(counts) if n == 1]
    fresh = [c for c in single if c not in fished]
    present = [c for c, n in enumerate(counts) if n]
    return (fresh or single or sorted(present, key=lambda c: counts[c]) or [0])[0]
