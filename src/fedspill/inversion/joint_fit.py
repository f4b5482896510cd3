"""All examples that were peeled, fitted to all bins at once.

Peeling reads an example from one bin and hands its error on to the next. Each example lies in one bin of every group,
so that there are more bins than examples, and least squares over all of them keeps the errors from adding up. It
matters for numbers that no lattice is coarse enough to round, such as a count of hundreds of thousands in float32.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.bin_contents import Contents
from fedspill.inversion.imprint import Imprint

ROUNDS = 2


def jointly_fitted(
    held: Sequence[Contents],
    left: Sequence[Contents],
    imprint: Imprint,
    features: Float[Tensor, "m f"],
    share: Float[Tensor, " m"],
) -> Float[Tensor, "m f"]:
    """The features that explain the bins best, in turns with their shares.

    Args:
        held: contents before anything was taken out.
        left: contents afterwards; bins that still hold something are left out.
        imprint: the groups.
        features: as they were peeled.
        share: c of each.
    """
    bins = imprint.bins(features)
    member, weight, bias = list[Tensor](), list[Tensor](), list[Tensor]()
    for j, (before, after) in enumerate(zip(held, left, strict=True)):
        within = bins[:, j] == torch.arange(len(before.bias), device=bins.device)[:, None]
        used = within.any(1) & ~after.known()
        member.append(within[used].to(features))
        weight.append(before.weight[used])
        bias.append(before.bias[used])
    within, sums, totals = (torch.cat(p) for p in (member, weight, bias))
    if int(within.any(0).sum()) < len(features) or len(within) < len(features):
        return features
    # A sum is rounded by the size of its parts, not by its own: shares of opposite sign may almost cancel.
    size = within @ share.abs()
    trust = size.min() / size
    for _ in range(ROUNDS):
        features = _solved(within * share, sums, trust)
        share = _solved(within, totals[:, None], trust)[:, 0]
    return features


def _solved(matrix: Tensor, right: Tensor, trust: Tensor) -> Tensor:
    # The pseudo-inverse of a small matrix; bins that share all their examples leave it singular.
    return torch.linalg.pinv(trust[:, None] * matrix, rtol=1e-9) @ (trust[:, None] * right)
