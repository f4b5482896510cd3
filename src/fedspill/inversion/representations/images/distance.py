"""How far representations are from those that were extracted: Maui (Dabholkar et al. 2025, arXiv 2509.11451), eq. 5.

The paper says "a combination of KL divergence and MSE"; its formula is not at hand, so directions and scales are ours.
"""

from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-12
"""Below which a representation's variance counts as this."""


def divergence(got: Float[Tensor, "m d"], target: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """KL(softmax(wanted) || softmax(got)) in nats: how features stand to each other, whatever is added to all."""
    guess, asked = got.log_softmax(1), target.log_softmax(1)
    return (asked.exp() * (asked - guess)).sum(1)


def scaled_mse(got: Float[Tensor, "m d"], target: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Mean squared error over the variance of the wanted features: 1 for the best constant, 0 for a match."""
    spread = target.var(1, correction=0).clamp_min(FLOOR)
    return (got - target).square().mean(1) / spread


def relative_distance(got: Float[Tensor, "m d"], target: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    """Euclidean distance over the length of the wanted representation."""
    return (got - target).norm(dim=1) / target.norm(dim=1).clamp_min(FLOOR)
