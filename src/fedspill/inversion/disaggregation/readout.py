"""From the head's gradient to the features and probabilities of the examples behind it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.point import Rules
from fedspill.inversion.disaggregation.silent import rounding, speaking
from fedspill.inversion.disaggregation.solving import DENSE, Solved, solve
from fedspill.inversion.disaggregation.starts import starts
from fedspill.inversion.disaggregation.system import System, system

STARTS, STEPS = 8, 200
HINGES = (0.3, 0.03)
"""Weights of negative features, one after the other."""
EXACT = 10.0
"""Times the rounding of a number up to which a residual is a solution's."""


@dataclass(frozen=True)
class Disaggregated:
    """The examples that speak, m of the B, in float64.

    Attributes:
        features: what enters the head.
        probabilities: softmax of the logits.
        labels: the class of each of them.
        certain: the equations hold as exactly as rounding lets them, and pin this example's features down.
        residual: relative error of the equations, over all.
        silent: examples of the batch that send nothing above rounding, B - m.
        errors: the derivative of the batch's mean loss by each example's logits.
    """

    features: Float[Tensor, "m d"]
    probabilities: Float[Tensor, "m classes"]
    labels: Int[Tensor, " m"]
    certain: Bool[Tensor, " m"]
    residual: float
    silent: int
    errors: Float[Tensor, "m classes"]


def disaggregate(
    rows: Float[Tensor, "classes k"],
    weight: Float[Tensor, "classes d"],
    bias: Float[Tensor, " classes"],
    labels: Int[Tensor, " n"],
    *,
    non_negative: bool,
    rng: torch.Generator,
    errors: LogitErrors | None = None,
    precision: torch.dtype = torch.float32,
    free: bool = False,
    is_up: Callable[[], bool] = lambda: False,
) -> Disaggregated:
    """Every example's features and probabilities from their mean gradient.

    Args:
        rows: the gradient of the head, a row for each class: [dW | db], or dW alone where no bias was trained.
        weight: the head's, at which the gradient was taken.
        bias: the head's; zeros for a head without one.
        labels: of the batch, in any order.
        non_negative: features are 0 or more, as behind ReLU, sigmoid, or pooling of these.
        rng: for the starts.
        errors: what the loss makes of probabilities; None for plain cross-entropy.
        precision: in which the gradient was sent.
        free: the gradient may be a multiple of the mean one.
        is_up: whether the time is over.

    Raises:
        NotApplicable: as many examples as classes, or more, or none that speaks.
    """
    rows, weight, bias = rows.double(), weight.double(), bias.double()
    classes, count = len(weight), len(labels)
    if count >= classes:
        raise NotApplicable(
            f"{count} examples are behind a head of {classes} classes: its gradient can tell {classes - 1} apart at most"
        )
    errors = errors or LogitErrors.plain(classes, rows)
    floor = rounding(rows, precision)
    _, sizes, right = torch.linalg.svd(rows, full_matrices=False)
    heard = speaking(sizes, count, floor)
    if heard == 0:
        raise NotApplicable(f"none of the {count} examples shows in the head's gradient above its rounding")
    basis = right[:heard]
    known = system(basis, rows @ basis.T, weight, bias, labels[:heard], errors.shares(labels)[:heard], errors)
    level = torch.finfo(precision).eps
    best = _solved(known, bias, non_negative, free, level, rng, is_up)
    return _told(known, best, labels[:heard], count - heard, level)


def _solved(
    known: System,
    bias: Tensor,
    non_negative: bool,
    free: bool,
    level: float,
    rng: torch.Generator,
    is_up: Callable[[], bool],
) -> Solved:
    """The best of a few starts; of a large batch one is followed after the other until one is right."""
    small = len(known.slope) <= DENSE
    first = starts(known, bias, STARTS, rng)
    best: Solved | None = None
    for start in [first] if small else first[:, None]:
        found = _followed(known, start, non_negative, free, level, is_up)
        best = found if best is None or float(found.cost) < float(best.cost) else best
        if is_up() or float(best.residual) < EXACT * level:
            break
    assert best is not None
    return best


def _followed(
    known: System, start: Tensor, non_negative: bool, free: bool, level: float, is_up: Callable[[], bool]
) -> Solved:
    even, root = known.balanced()
    found = Solved(start / root, start.new_ones(len(start)), start[:, 0, 0], start[:, 0, 0])
    for hinge in HINGES if non_negative else (0.0,):
        found = solve(even, found.mixing, found.factor, Rules(hinge, free, STEPS, 2 * level), is_up)
    found = found.best()
    last = Rules(HINGES[-1] if non_negative else 0.0, free, STEPS // 4, 2 * level)
    return solve(known, found.mixing * root, found.factor, last, is_up)


def _told(known: System, best: Solved, labels: Tensor, silent: int, unit: float) -> Disaggregated:
    mixing, residual = best.mixing[0], float(best.residual[0])
    probabilities = known.probabilities(mixing)
    certain = torch.full_like(labels, residual < EXACT * unit, dtype=torch.bool)
    return Disaggregated(
        features=known.features(mixing),
        probabilities=probabilities,
        labels=labels,
        certain=certain,
        residual=residual,
        silent=silent,
        errors=known.errors(probabilities),
    )
