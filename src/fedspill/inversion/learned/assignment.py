"""The squared error of a batch under the best order of its examples (arXiv 2210.10880, section 4).

An update is a mean over examples and says nothing of their order, so that no order can be learned; the best one is
found by the Hungarian method. Where places have labels, only examples of one label change places.
"""

import torch
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def exchangeable(labels: Tensor | None, count: int) -> Bool[Tensor, "n n"]:
    """Which places may change: those of equal labels; all where there are none."""
    if labels is None:
        return torch.ones(count, count, dtype=torch.bool)
    rows = labels.detach().cpu().reshape(count, -1)
    return (rows[:, None] == rows[None]).all(-1)


def ordered(
    made: Float[Tensor, "m n d"], targets: Float[Tensor, "m n d"], may: Bool[Tensor, "n n"]
) -> Float[Tensor, "m n d"]:
    """The targets, each batch in the order in which it is closest to what was made.

    Args:
        made: what a network gives.
        targets: examples.
        may: of `exchangeable`.
    """
    if int(may.sum()) == len(may):
        return targets
    costs = torch.cdist(made.detach(), targets).square().cpu().double()
    # A finite price above any total, as the solver takes no infinite ones along a whole row.
    price = (costs.sum((1, 2)) + 1)[:, None, None] * (~may)
    orders = [linear_sum_assignment(cost)[1] for cost in (costs + price).numpy()]
    order = torch.stack([torch.from_numpy(o) for o in orders]).to(targets.device)
    return targets.gather(1, order[:, :, None].expand_as(targets))


def in_canonical_order(targets: Float[Tensor, "m n d"], may: Bool[Tensor, "n n"]) -> Float[Tensor, "m n d"]:
    """Examples that may change places by their mean, ascending: an order that a linear map can aim at."""
    means = targets.mean(2)
    order = torch.arange(len(may)).expand(len(targets), -1).clone().to(targets.device)
    for places in torch.unique(may, dim=0):
        held = places.nonzero()[:, 0].to(targets.device)
        order[:, held] = held[means[:, held].argsort(1)]
    return targets.gather(1, order[:, :, None].expand_as(targets))
