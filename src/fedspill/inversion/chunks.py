"""The objective of one large batch with a part of it in memory at a time.

In eval mode the gradient of the mean loss is the mean over examples. So is its derivative: the direction in which the
distance falls is one for all, and an example's share of it asks for that example's own graph only.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.distances import Distance, cotangent
from fedspill.inversion.evaluation import product

PartUpdate = Callable[[Tensor, Tensor, bool], Params]
"""Examples, labels, and whether a graph is wanted, to the gradient of their mean loss."""
Valued = tuple[Tensor, list[Tensor | None]]


def chunked(update: PartUpdate, observed: Params, distance: Distance, z: Tensor, labels: Tensor, size: int) -> Valued:
    """What `Matching.value_and_gradients` gives, up to rounding, with `size` examples at a time.

    One gradient of each part without a graph, then one with: a quarter to a third more work.
    """
    guess = in_parts(update, z, labels, size)
    value, direction, factor = cotangent(distance, guess, observed)
    found = list[list[Tensor]]()
    for part in _parts(len(z), size) if z.requires_grad or labels.requires_grad else []:
        inputs = [v[part].detach().requires_grad_(v.requires_grad) for v in (z, labels)]
        own = update(inputs[0], inputs[1], True)
        wanted = [v for v in inputs if v.requires_grad]
        share = factor * (len(inputs[0]) / len(z))
        found.append([g * share for g in product([own[k] for k in observed], direction, wanted)])
    whole = iter([torch.cat(pieces) for pieces in zip(*found, strict=True)])
    return value, [next(whole) if v.requires_grad else None for v in (z, labels)]


def in_parts(update: PartUpdate, z: Tensor, labels: Tensor, size: int) -> dict[str, Tensor]:
    """The gradient of the mean loss without a graph, from parts of `size` examples."""
    total = dict[str, Tensor]()
    for part in _parts(len(z), size):
        inputs = z[part].detach(), labels[part].detach()
        for name, value in update(*inputs, False).items():
            share = value.detach() * (len(inputs[0]) / len(z))
            total[name] = total[name].add_(share) if name in total else share
    return total


def _parts(n: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, n, size)]
