"""By what a gradient was multiplied before it was sent: clipped to a norm, scaled for float16, summed or weighted.

The classification layer tells, for its bias gradient is softmax less one-hot. A class that no example has shows the
examples' mean softmax there, and with its row their mean features, which the layer turns into the same softmax.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update
from fedspill.inversion.gradients.head import ClassifierGradient, head_gradient
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual
from fedspill.inversion.gradients.losses import is_cross_entropy

ONE_EXAMPLE = 1e-3
"""Disagreement of the head's rows below which they show one example, and its softmax exactly."""
ROUGH = 1.5
"""What several examples tell of the factor is right up to this."""
AGREE = 0.7
"""Share of the classes without examples, by their probability, that must tell the same factor."""
WHOLE = 0.3
"""How far from whole numbers the examples of the classes may seem to be."""
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


def head_multiple(update: Update, knowledge: ServerKnowledge, num_examples: int | None = None) -> Multiple | None:
    """What the classification layer says of the factor.

    None if it says nothing: the loss is not plain cross-entropy, the layer or its bias was not sent, too few classes
    are absent from the update, or they contradict each other, as they may for a trained network.
    """
    if not is_cross_entropy(knowledge.model):
        return None
    try:
        gradient = head_gradient(update, knowledge, num_examples or knowledge.num_examples or 1)
        bias = gradient.bias()
    except NotApplicable:
        return None
    if gradient.offset is None or len(bias) < 3 or not bool(bias.any()):
        return None
    return of_one_example(gradient) or of_absent_classes(gradient, num_examples or knowledge.num_examples)


def of_one_example(gradient: ClassifierGradient) -> Multiple | None:
    """The factor if all rows show one example: its softmax is known then, and with it what its gradient would be."""
    bias, rows = gradient.bias(), gradient.rows()
    x = layer_input(rows, bias)
    if rank_one_residual(rows, bias, x) > ONE_EXAMPLE:
        return None
    p = _softmax(gradient, x)
    errors = p - functional.one_hot(bias.argmin(), len(bias)).to(p)
    factor = best_factor(errors, bias)
    off = float((bias - factor * errors).norm() / bias.norm())
    return Multiple(factor, True) if factor > 0 and off < ONE_EXAMPLE else None


def of_absent_classes(gradient: ClassifierGradient, num_examples: int | None) -> Multiple | None:
    """The factor by which most of the classes with a positive derivative differ from the softmax that they show.

    If every class has examples, those that have fewest pass for absent. Then the numbers of examples are no whole ones.
    """
    bias, rows = gradient.bias(), gradient.rows()
    absent = bias > 0
    if int(absent.sum()) < 2:
        return None
    p = _softmax(gradient, layer_input(rows[absent], bias[absent]))
    ratio = bias[absent] / p[absent]
    middle = _weighted_median(ratio, p[absent])
    near = (ratio / middle).log().abs() <= math.log(ROUGH)
    if float(p[absent][near].sum()) < AGREE * float(p[absent].sum()):
        return None
    told = Multiple(middle, False)
    if num_examples is None or told.allows(1.0):
        return told
    off = {f: _off_whole(num_examples * (p - bias / f)) for f in (1.0, middle)}
    best = min(off, key=off.__getitem__)
    return Multiple(best, False) if off[best] < WHOLE else None


def _weighted_median(values: Tensor, weights: Tensor) -> float:
    order = values.argsort()
    return float(values[order][int((weights[order].cumsum(0) < weights.sum() / 2).sum())])


def _off_whole(counts: Tensor) -> float:
    return float((counts - counts.round().clamp_min(0)).abs().max())


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
    fits: Sequence[Fitted], observed: Tensor, told: Multiple | None, num_examples: int
) -> float | None:
    """The one factor of an update, from candidates that fit it with a factor of their own each.

    A mixture of two examples of one class fits with twice the factor. So the layer that tells labels must allow it;
    where that says nothing, two candidates must agree, and as long as examples are missing something must be left over.

    Args:
        fits: candidates.
        observed: the tensor that they add up to.
        told: by the classification layer.
        num_examples: n.
    """
    likely = [f for f in fits if f.factor > 0 and (told is None or told.allows(f.factor))]
    agreeing = [[g for g in likely if abs(g.factor / f.factor - 1) < ALIKE] for f in likely]
    if not agreeing:
        return None
    chosen = max(agreeing, key=lambda group: (len(group), -group[0].factor))
    if told is None and len(chosen) < 2:
        return None
    left = observed - torch.stack([f.shown for f in chosen]).sum(0)
    if len(chosen) < num_examples and float(left.norm()) < LEFT * float(observed.norm()):
        return None
    return sorted(f.factor for f in chosen)[len(chosen) // 2]


def multiple_note(factor: float) -> tuple[str, ...]:
    """For a reader: that the update is no mean gradient but a multiple; () if it is one."""
    if abs(factor - 1) < ALIKE:
        return ()
    return (f"The update is {factor:.4g} times what the clients' examples give: clipped, scaled or of another step size.",)


def best_factor(shown: Tensor, observed: Tensor) -> float:
    """The factor of what is shown that comes nearest to what was observed, by least squares; 0 if nothing is shown."""
    return float((shown * observed).sum() / shown.square().sum().clamp_min(1e-300))


def _softmax(gradient: ClassifierGradient, x: Float[Tensor, " d"]) -> Float[Tensor, " k"]:
    logits = gradient.weight @ x
    return (logits if gradient.offset is None else logits + gradient.offset).softmax(0)
