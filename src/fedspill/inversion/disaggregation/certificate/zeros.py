"""Which examples their zeros pin down: behind a ReLU a mixture of examples has few of them.

An example that is off by a share of another one is off in its zeros, too, wherever that one is not 0. So the size of
what ought to be 0 bounds every such share, for as many examples as there are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.inversion.disaggregation.certificate.determined import apart

ZERO, SPARE = 1e-3, 8
"""Share of an example's root mean square below which a feature is 0, and zeros needed beyond the other examples."""


def mixed_in(features: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """The most that may be mixed into each example, over its distance from the others' mean; inf where zeros are few.

    Features at which all examples are 0 say nothing, nor does a mixture that is small in all zeros of an example.
    """
    level = ZERO * features.square().mean(1, keepdim=True).sqrt()
    zero = features.abs() <= level
    zero &= ~zero.all(0)
    found = [_largest(features, k, zero[k]) for k in range(len(features))]
    return torch.stack(found) / apart(features)


def _largest(features: Tensor, own: int, zero: Tensor) -> Float[Tensor, ""]:
    """The norm of share (others - own), at most, where share others = own at the zeros of the own one."""
    others = torch.cat([features[:own], features[own + 1 :]])
    seen = others[:, zero]
    if not len(others) or seen.shape[1] < len(others) + SPARE or int(torch.linalg.matrix_rank(seen)) < len(others):
        return features.new_full((), torch.inf)
    moved = torch.linalg.pinv(seen) @ (others - features[own])
    return torch.linalg.matrix_norm(moved, 2) * features[own, zero].norm()
