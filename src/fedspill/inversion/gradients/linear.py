"""Inputs of a linear layer from its gradient (Geiping et al. 2020, arXiv 2003.14053, Prop. 3.1 and D.1).

For y = W x + b the gradient is dL/dW = sum_i delta_i x_i^T and dL/db = sum_i delta_i. With one example every
row of dL/dW is a multiple of x. With several, a row whose delta is non-zero for one only is exclusive to it.
All sums are done in float64. A scale common to dW and db, such as a learning rate, cancels.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable


def layer_input(
    weight_grad: Float[Tensor, "out in"],
    bias_grad: Float[Tensor, " out"],
    told: Bool[Tensor, "out in"] | None = None,
) -> Float[Tensor, " in"]:
    """The input of a layer that saw one example: dW^T delta / (delta^T delta) (Prop. D.1, all rows at once).

    This least-squares form weights rows by delta squared, so that no row is divided by a tiny number. With
    several examples it is a mixture of their inputs.

    Args:
        told: entries of the weight gradient that were sent as they are; a place of the input that none tells is 0.
            None takes all.

    Raises:
        NotApplicable: the derivative by the layer's output is zero, so the gradient holds no input.
    """
    delta = bias_grad.double()
    energy = delta.square().sum()
    if not float(energy) > 0:
        raise NotApplicable("the gradient of the layer's output is zero: the update holds nothing of its input")
    if told is None:
        return weight_grad.double().T @ delta / energy
    each = told.double().T @ delta.square()
    return torch.where(each > 0, (weight_grad.double() * told).T @ delta / each.clamp_min(1e-300), 0.0)


def rank_one_residual(
    weight_grad: Float[Tensor, "out in"], bias_grad: Float[Tensor, " out"], x: Float[Tensor, " in"]
) -> float:
    """||dW - delta x^T|| / ||dW||: near 0 if all rows agree on the input, as they do for one example."""
    weight, delta = weight_grad.double(), bias_grad.double()
    return float((weight - torch.outer(delta, x.double())).norm() / weight.norm().clamp_min(1e-300))


@dataclass(frozen=True)
class RowGroup:
    """Rows of one layer that agree on their input.

    Attributes:
        x: the input, by least squares over the rows, float64.
        rows: their indices, strongest first; one row alone agrees with nobody.
        spread: the largest angle (radians) between the rows' (x, 1) vectors.
    """

    x: Float[Tensor, " in"]
    rows: Int[Tensor, " rows"]
    spread: float


def row_floor(dtype: torch.dtype) -> float:
    """Bias gradients below this fraction of the largest are not divided by."""
    return 1e-9 if dtype == torch.float64 else 1e-3


def row_groups(
    weight_grad: Float[Tensor, "out in"],
    bias_grad: Float[Tensor, " out"],
    *,
    floor: float,
    tolerance: float = 1e-4,
    noise: float = 0.0,
    told: Bool[Tensor, "out in"] | None = None,
    loosest: float = math.inf,
) -> list[RowGroup]:
    """Rows with a usable bias gradient, those that agree put together; largest groups first.

    Two rows owned by one example give the same ratio dW_j / db_j; rows shared by several examples give
    mixtures that differ, unless the examples' deltas are proportional to each other.

    Args:
        weight_grad: dL/dW, in any common scale with
        bias_grad: dL/db.
        floor: the smallest usable |db|.
        tolerance: the angle (radians, at most about 0.1) below which two rows agree.
        noise: standard deviation of rounding in one entry of dW; weak rows are given more tolerance for it.
        told: entries of dW that were sent as they are; rows are compared by those that both have. None takes all.
        loosest: the tolerance from which on a row agrees with none: so weak a one would agree with all.
    """
    weight, delta = weight_grad.double(), bias_grad.double()
    order = delta.abs().argsort(descending=True)
    order = order[delta[order].abs() > max(floor, 1e-300)]
    pointing = torch.cat([weight, delta[:, None]], 1)[order] * delta[order].sign()[:, None]
    length = pointing.norm(dim=1, keepdim=True)
    slack = tolerance + 4 * noise * pointing.shape[1] ** 0.5 / length[:, 0]
    # The chord of unit vectors; from the dot product it is good to about 1e-8, far below any tolerance.
    unit = pointing / length
    cosine = unit @ unit.T if told is None else _of_shared(pointing, told[order])
    angle = (2 - 2 * cosine).clamp_min(0).sqrt()
    agree = angle <= torch.maximum(slack[:, None], slack[None, :])
    weak = slack > loosest
    agree = agree & ~(weak[:, None] | weak[None, :]) | torch.eye(len(order), dtype=torch.bool, device=agree.device)
    groups, free = list[RowGroup](), torch.ones(len(order), dtype=torch.bool, device=delta.device)
    for first in range(len(order)):
        if free[first]:
            member = (agree[first] & free).nonzero()[:, 0]
            free[member] = False
            rows = order[member]
            x = layer_input(weight[rows], delta[rows], None if told is None else told[rows])
            groups.append(RowGroup(x, rows, float(angle[first, member].max())))
    return sorted(groups, key=lambda g: -len(g.rows))


def _of_shared(pointing: Tensor, told: Tensor) -> Tensor:
    """Cosines of rows, each pair by the entries that both have; the last, of the bias, every row has."""
    mask = torch.cat([told, told.new_ones(len(told), 1)], 1).double()
    values = pointing * mask
    lengths = values.square() @ mask.T
    return values @ values.T / (lengths * lengths.T).sqrt().clamp_min(1e-300)


def class_means(
    weight_grad: Float[Tensor, "k in"], bias_grad: Float[Tensor, " k"], counts: Int[Tensor, " k"]
) -> tuple[Float[Tensor, "present in"], float]:
    """The mean input of each class that is present, from a layer whose rows belong to the classes.

    With softmax and cross-entropy row c is dW_c = mean_i p_ic x_i - (n_c / n) xbar_c. Absent classes show
    M = mean_i p_i x_i / mean_i p_i; if p is about the same for all examples then
    xbar_c = (pbar_c M - dW_c) n / n_c with pbar_c = db_c + n_c / n. Exact for a head with zero weights.

    Args:
        weight_grad: dL/dW, in the scale of the mean gradient, as
        bias_grad: dL/db.
        counts: n_c, examples of each class.

    Returns:
        Mean inputs in the order of the classes, and the disagreement of the absent classes on M (relative
        residual; 0 means that the formula is exact).

    Raises:
        NotApplicable: every class is present, so that M is not shown.
    """
    weight, delta, counts = weight_grad.double(), bias_grad.double(), counts.to(bias_grad.device)
    absent, present = counts == 0, counts > 0
    if not bool(absent.any()):
        raise NotApplicable("every class is present: no row of the head shows the mean input alone")
    mean = layer_input(weight[absent], delta[absent])
    residual = rank_one_residual(weight[absent], delta[absent], mean)
    share = counts[present].double() / counts.sum()
    probability = delta[present] + share
    return (probability[:, None] * mean - weight[present]) / share[:, None], residual
