"""Ratio clustering of the last layer's gradient (Pan et al., USENIX Security 2022, arXiv 2010.13356).

Column j of the last weight's gradient is sum_i h_ij g_i with h the activations and g_i = (p_i - [y_i]) / n. A unit
that one example alone fires (an exclusively activated neuron) has a multiple of that example's g_i. The paper divides
columns by the row of a reference class and compares the ratios; the columns' directions say the same, and nothing small
is divided by.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class UnitCluster:
    """Units whose columns point the same way.

    Attributes:
        units: their positions, strongest first.
        direction: of length 1: that of the derivative of one example's loss by its logits, unless this is a mixture.
        strength: (units,) length of each column.
        label: the one class with a negative coordinate; None if there are others, so that this is a mixture.
    """

    units: Int[Tensor, " units"]
    direction: Float[Tensor, " classes"]
    strength: Float[Tensor, " units"]
    label: int | None


def ratio_clusters(
    weight_grad: Float[Tensor, "classes units"],
    usable: Bool[Tensor, " units"],
    *,
    tolerance: float = 1e-4,
    noise: float = 0.0,
) -> list[UnitCluster]:
    """Columns that point the same way put together, largest clusters first; one column may stand alone.

    Args:
        weight_grad: of the last layer, float64.
        usable: columns to look at; those of dead units are 0 and left out in any case.
        tolerance: angle in radians below which two columns agree.
        noise: standard deviation of rounding in one entry; short columns are given more tolerance for it.
    """
    columns = weight_grad.T
    length = columns.norm(dim=1)
    order = length.argsort(descending=True, stable=True)
    rough = noise * columns.shape[1] ** 0.5
    order = order[usable[order] & (length[order] > max(1e-300, 100 * rough))]
    unit = columns[order] / length[order, None]
    slack = tolerance + 4 * rough / length[order]
    angle = (2 - 2 * unit @ unit.T).clamp_min(0).sqrt()
    agree = angle <= torch.maximum(slack[:, None], slack[None, :])
    clusters, free = list[UnitCluster](), torch.ones(len(order), dtype=torch.bool, device=order.device)
    for first in range(len(order)):
        if free[first]:
            member = (agree[first] & free).nonzero()[:, 0]
            free[member] = False
            clusters.append(_cluster(order[member], columns, length, float(slack[first])))
    return sorted(clusters, key=lambda c: -len(c.units))


def _cluster(units: Tensor, columns: Tensor, length: Tensor, slack: float) -> UnitCluster:
    total = columns[units].sum(0)
    direction = total / total.norm()
    label = int(direction.argmin())
    # Rounding may turn a probability of next to nothing negative.
    others = int((direction < -slack).sum())
    return UnitCluster(units, direction, length[units], label if others == 1 else None)
