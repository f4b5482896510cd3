"""The factor between an update and the mean gradient, as the classification layer tells it.

Its bias gradient is softmax less one-hot, averaged. With the right factor the labels that it shows reproduce
themselves: the features that the rows then show give the softmax from which the labels were read.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Update
from fedspill.inversion.gradients.head import ClassifierGradient, head_gradient
from fedspill.inversion.gradients.linear import layer_input, rank_one_residual
from fedspill.inversion.gradients.losses import is_cross_entropy
from fedspill.inversion.gradients.mean import is_proportional
from fedspill.inversion.gradients.scale import Multiple, best_factor
from fedspill.inversion.labels.probe import nearest_counts

ONE_EXAMPLE = 1e-3
"""Disagreement of the head's rows below which they show one example, and its softmax exactly."""
ROUNDS, INNER = 8, 3
CONSISTENT = 0.1
"""Relative error of the bias gradient up to which labels count as reproducing themselves."""
WHOLE = 0.3
"""How far from whole numbers the examples of a class may seem to be."""


def head_multiple(update: Update, knowledge: ServerKnowledge, num_examples: int | None = None) -> Multiple | None:
    """What the classification layer says of the factor.

    None if it says nothing: the loss is not plain cross-entropy, the update holds no more than signs, the layer or its
    bias was not sent, the number of several examples is not known, or no factor makes their labels reproduce
    themselves, as in many trained networks.
    """
    count = num_examples or knowledge.num_examples
    if not is_cross_entropy(knowledge.model) or not is_proportional(update, knowledge):
        return None
    try:
        gradient = head_gradient(update, knowledge, count or 1)
        bias = gradient.bias()
    except NotApplicable:
        return None
    if gradient.offset is None or len(bias) < 3 or not bool(bias.any()):
        return None
    return of_one_example(gradient) or (None if count is None else of_several(gradient, _granted(knowledge, len(bias))))


def _granted(knowledge: ServerKnowledge, classes: int) -> Tensor | None:
    labels = knowledge.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        return None
    return torch.bincount(labels, minlength=classes)


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


def of_several(gradient: ClassifierGradient, counts: Tensor | None = None) -> Multiple | None:
    """The factor with which labels reproduce themselves best, and 1 where that is hardly worse.

    Args:
        gradient: of a head with a bias, whose output are the logits.
        counts: examples of each class, if they are known.
    """
    plain = _consistent(gradient, 1.0, counts, moves=False)
    moved = [_consistent(gradient, start, counts, moves=True) for start in _starts(gradient)]
    factor, off = min(moved, key=lambda pair: pair[1], default=plain)
    if plain[1] < max(CONSISTENT, 2 * off):
        return Multiple(1.0, False)
    return Multiple(factor, False) if off < CONSISTENT else None


def _starts(gradient: ClassifierGradient) -> list[float]:
    """Factors that classes with a positive derivative show, as if they had no example: the middle and the largest."""
    bias, rows = gradient.bias(), gradient.rows()
    absent = bias > 0
    if not bool(absent.any()):
        return []
    ratio = bias[absent] / _softmax(gradient, layer_input(rows[absent], bias[absent]))[absent]
    return [float(ratio.median()), float(ratio.max())]


def _consistent(
    gradient: ClassifierGradient, factor: float, counts: Tensor | None, *, moves: bool
) -> tuple[float, float]:
    """A factor near the first one, and the relative error of the head's gradient that labels with it give."""
    bias, n = gradient.bias(), gradient.num_examples
    positive = bias > 0
    if not bool(positive.any()):
        return factor, torch.inf
    p = _softmax(gradient, layer_input(gradient.rows()[positive], bias[positive]))
    found, examples = torch.zeros_like(bias, dtype=torch.long), None
    for _ in range(ROUNDS):
        found = _counted(n * (p - bias / factor), n) if counts is None else counts.to(bias.device)
        if int((found > 0).sum()) >= len(bias):
            return factor, torch.inf  # too few equations for a mean input of each class
        examples = _Examples.behind(gradient, factor, found)
        p = examples.softmax.T @ examples.share
        if moves:
            factor = best_factor(p - found / n, bias)
        if not factor > 0:
            return factor, torch.inf
    assert examples is not None
    # Where every class has examples, the fewest pass for none, and the numbers of the others are then no whole ones.
    whole = float((n * (p - bias / factor) - found).abs().max()) < WHOLE
    off = examples.off(gradient, factor)
    return factor, off if (whole or factor == 1) and off == off else torch.inf


def _counted(expected: Float[Tensor, " k"], n: int) -> Int[Tensor, " k"]:
    return torch.bincount(nearest_counts(expected, n), minlength=len(expected)).to(expected.device)


@dataclass(frozen=True)
class _Examples:
    """The mean example of every class that is present.

    Attributes:
        present: the classes.
        share: of each in the mean.
        features: what enters the head.
        softmax: what the head makes of it.
    """

    present: Int[Tensor, " m"]
    share: Float[Tensor, " m"]
    features: Float[Tensor, "m d"]
    softmax: Float[Tensor, "m k"]

    @classmethod
    def behind(cls, gradient: ClassifierGradient, factor: float, counts: Int[Tensor, " k"]) -> "_Examples":
        """Least squares over the rows, in turns with the softmax that the features give, from what the bias tells."""
        bias, rows = gradient.bias(), gradient.rows()
        present = counts.nonzero()[:, 0]
        share = counts[present].to(rows) / gradient.num_examples
        others = bias[counts == 0].mean()  # what the other examples' softmax adds to a class, about
        own = (1 + (bias[present] - others) / (factor * share)).clamp(0, 1)[:, None]
        softmax = ((1 - own) / (len(bias) - 1)).expand(-1, len(bias)).clone().scatter_(1, present[:, None], own)
        made: list[_Examples] = [cls(present, share, rows.new_zeros(len(present), rows.shape[1]), softmax)]
        for _ in range(INNER):
            made.append(made[-1]._again(gradient, factor))
        # Where the network is sure of an example the turns lead away from the right softmax.
        return min(made[1:], key=lambda examples: examples.off(gradient, factor))

    def _again(self, gradient: ClassifierGradient, factor: float) -> "_Examples":
        features = torch.linalg.pinv(factor * self.errors().T) @ gradient.rows()
        logits = features @ gradient.weight.T
        logits = logits if gradient.offset is None else logits + gradient.offset
        return replace(self, features=features, softmax=logits.softmax(1))

    def errors(self) -> Float[Tensor, "m k"]:
        """The derivative of the mean loss by the logits of each class's mean example."""
        return self.share[:, None] * (self.softmax - functional.one_hot(self.present, self.softmax.shape[1]))

    def off(self, gradient: ClassifierGradient, factor: float) -> float:
        """The relative error of the head's gradient, the worse of its bias's and its weight's."""
        shown = factor * self.errors().T
        bias, rows = gradient.bias(), gradient.rows()
        return max(
            float((shown.sum(1) - bias).norm() / bias.norm()),
            float((shown @ self.features - rows).norm() / rows.norm()),
        )


def _softmax(gradient: ClassifierGradient, x: Float[Tensor, " d"]) -> Float[Tensor, " k"]:
    logits = gradient.weight @ x
    return (logits if gradient.offset is None else logits + gradient.offset).softmax(0)
