"""Independent searches for the same rows, put into one order and pooled (TabLeak, arXiv 2210.01785, sections 4.2, 4.3).

An update does not tell the order of its examples, so that every search finds another one; what is right is found by
many, what is wrong differs.
"""

import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedspill.core.inputs import CategoricalColumn, Column, TableSpec

NEAR = 0.319
"""Standard deviations within which two numbers count as one: the paper's tolerance."""


def aligned(
    spec: TableSpec, members: Float[Tensor, "r n features"], best: int, labels: Int[Tensor, " n"] | None
) -> Float[Tensor, "r n features"]:
    """Every member in the order of the best one, by linear-sum assignment over the columns that disagree.

    Args:
        spec: the columns.
        members: encoded rows; relaxed ones count as their likeliest category.
        best: the member whose order is kept.
        labels: of the rows; only rows of one label change places. None lets all.
    """
    decoded = torch.stack([_compared(spec, m) for m in members])
    order = [_order(spec, decoded[best], one, labels) for one in decoded]
    return torch.stack([m[o] for m, o in zip(members, order, strict=True)])


def _compared(spec: TableSpec, rows: Float[Tensor, "n features"]) -> Float[Tensor, "n columns"]:
    """Categories by their position, numbers in standard deviations."""
    parts = zip(spec.columns, rows.split(spec.widths, -1), strict=True)
    return torch.stack([p.argmax(-1).to(p) if isinstance(c, CategoricalColumn) else p[:, 0] for c, p in parts], 1)


def _order(spec: TableSpec, target: Tensor, rows: Tensor, labels: Tensor | None) -> Tensor:
    near = target.new_tensor([0.0 if isinstance(c, CategoricalColumn) else NEAR for c in spec.columns])
    gaps = (target[:, None] - rows[None]).abs()
    # Among equals the numbers decide.
    cost = (gaps > near).double().mean(2) + 1e-3 * gaps.clamp_max(10).double().mean(2) / 10
    if labels is not None:
        cost = cost + 10.0 * (labels[:, None] != labels[None]).to(cost)
    _, chosen = linear_sum_assignment(cost.cpu().numpy())
    return torch.as_tensor(chosen, device=rows.device)


def pooled(members: Float[Tensor, "r n features"]) -> Float[Tensor, "n features"]:
    """The median of every number and of every category's probability."""
    # PyTorch's median of an expanded tensor reads numbers that are not its own (2.13).
    return members.contiguous().median(0).values


def certainty(spec: TableSpec, members: Float[Tensor, "r n features"]) -> Float[Tensor, "n columns"]:
    """How sure every cell is, in [0, 1].

    Of a category 1 less the entropy of its pooled distribution over the entropy of not knowing it; of a number 1 less
    the members' standard deviation over the column's. One member says nothing of numbers, whose certainty is 0 then.

    Args:
        spec: the columns.
        members: in one order; categories are probabilities.
    """
    whole, spread = pooled(members), members.std(0, correction=0)
    each = zip(spec.columns, whole.split(spec.widths, -1), spread.split(spec.widths, -1), strict=True)
    return torch.stack([_certainty(c, p, s, len(members)) for c, p, s in each], 1)


def _certainty(column: Column, middle: Tensor, spread: Tensor, members: int) -> Tensor:
    if not isinstance(column, CategoricalColumn):
        return 1 - spread[:, 0].clamp(0, 1) if members > 1 else torch.zeros_like(spread[:, 0])
    if middle.shape[1] == 1:
        return torch.ones_like(middle[:, 0])
    share = middle / middle.sum(1, keepdim=True).clamp_min(1e-30)
    entropy = -(share * share.clamp_min(1e-30).log()).sum(1)
    return (1 - entropy / torch.log(middle.new_tensor(float(middle.shape[1])))).clamp(0, 1)
