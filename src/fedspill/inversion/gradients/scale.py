"""By what a gradient was multiplied before it was sent: clipped to a norm, scaled for float16, summed or weighted.

One factor belongs to a whole update. Each candidate that accounts for its part of it fits a factor of its own; what
many agree on, or the classification layer allows (`labels.scale`), is the update's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROUGH = 1.5
"""What several examples tell of the factor at the classification layer is right up to this."""
ALIKE = 0.02
"""Relative difference up to which candidates tell one factor."""
LEFT = 1e-2
"""Share of a gradient below which nothing is left of it."""


@dataclass(frozen=True)
class Multiple:
    """The factor as the classification layer tells it.

    Attributes:
        factor: above 0; the update is this times the mean gradient.
        exact: told by one example; else it is right up to `ROUGH`.
    """

    factor: float
    exact: bool

    def allows(self, factor: float) -> bool:
        """A factor that was found otherwise may be the true one."""
        return abs(math.log(factor / self.factor)) <= math.log(1.01 if self.exact else ROUGH)


@dataclass(frozen=True)
class Fitted:
    """A candidate that accounts for what it is said to own, up to a factor.

    Attributes:
        factor: that fits best; 1 if the update is the mean gradient.
        shown: what the candidate alone adds to the observed tensor, factor and all.
    """

    factor: float
    shown: Float[Tensor, "..."]


def common_multiple(
    fits: Sequence[Fitted], observed: Tensor, told: Multiple | None, num_examples: int | None
) -> float | None:
    """The one factor of an update, from candidates that fit it with a factor of their own each.

    A mixture of two examples of one class fits with twice the factor. So the layer that tells labels must allow it;
    where that says nothing, two candidates must agree, and as long as examples are missing something must be left over.

    Args:
        fits: candidates.
        observed: the tensor that they add up to.
        told: by the classification layer.
        num_examples: n, if it is known.
    """
    likely = [f for f in fits if f.factor > 0 and (told is None or told.allows(f.factor))]
    agreeing = [[g for g in likely if abs(g.factor / f.factor - 1) < ALIKE] for f in likely]
    if not agreeing:
        return None
    chosen = max(agreeing, key=lambda group: (len(group), -group[0].factor))
    if told is None and len(chosen) < 2:
        return None
    left = observed - torch.stack([f.shown for f in chosen]).sum(0)
    if num_examples is not None and len(chosen) < num_examples and float(left.norm()) < LEFT * float(observed.norm()):
        return None
    return sorted(f.factor for f in chosen)[len(chosen) // 2]


def multiple_note(factor: float) -> tuple[str, ...]:
    """For a reader: that the update is no mean gradient but a multiple; () if it is one."""
    if abs(factor - 1) < ALIKE:
        return ()
    return (f"The update is {factor:.4g} times what the examples give: clipped, scaled or of another step size.",)


def best_factor(shown: Tensor, observed: Tensor) -> float:
    """The factor of what is shown that comes nearest to what was observed, by least squares; 0 if nothing is shown."""
    return float((shown * observed).sum() / shown.square().sum().clamp_min(1e-300))
