"""Distances between updates, and their gradients with respect to one of the two in closed form."""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.types import Params
from fedspill.inversion.kernels.products import SMALLEST, cosine_of

Distance = Callable[[Params, Params], Float[Tensor, ""]]
DistanceName = Literal["cosine", "squared", "surviving"]
Cotangent = tuple[Float[Tensor, ""], list[Tensor], Float[Tensor, ""] | float]
"""The distance, a direction like the update, and a number: their product is the distance's gradient."""


def squared_distance(guess: Params, observed: Params) -> Float[Tensor, ""]:
    """Sum of squared differences over all parameters (DLG, eq. 4; Inverting Gradients, eq. 3)."""
    return torch.stack([(guess[k] - v).pow(2).sum() for k, v in observed.items()]).sum()


def cosine_distance(guess: Params, observed: Params) -> Float[Tensor, ""]:
    """1 - cosine of the angle between all parameters taken as one vector, in [0, 2] (Inverting Gradients, eq. 4)."""
    dot = torch.stack([(guess[k] * v).sum() for k, v in observed.items()]).sum()
    guessed = torch.stack([guess[k].pow(2).sum() for k in observed]).sum()
    target = torch.stack([v.pow(2).sum() for v in observed.values()]).sum()
    return cosine_of(dot, guessed, target)


def surviving_distance(guess: Params, observed: Params) -> Float[Tensor, ""]:
    """`cosine_distance` of those values that were observed not to be 0: what pruning took away says nothing.

    For updates of which a client sends the largest values only (Inverting Gradients' and GIAS's answer to pruning).
    """
    kept = {k: v != 0 for k, v in observed.items()}
    dot = torch.stack([(guess[k] * v).sum() for k, v in observed.items()]).sum()
    guessed = torch.stack([guess[k].square().where(kept[k], 0.0).sum() for k in observed]).sum()
    target = torch.stack([v.pow(2).sum() for v in observed.values()]).sum()
    return cosine_of(dot, guessed, target)


DISTANCES: dict[DistanceName, Distance] = {
    "cosine": cosine_distance,
    "squared": squared_distance,
    "surviving": surviving_distance,
}


def cotangent(distance: Distance, guess: Params, observed: Params) -> Cotangent:
    """The distance and its gradient with respect to `guess`, which is not attached to a graph.

    One pass over the parameters for each number and one for the direction; no graph over them.
    """
    if distance is cosine_distance:
        return _of_cosine([guess[k] for k in observed], list(observed.values()))
    if distance is squared_distance:
        return _of_squared([guess[k] for k in observed], list(observed.values()))
    leaves = {k: guess[k].detach().requires_grad_() for k in observed}
    with torch.enable_grad():
        value = distance(leaves, observed)
    return value.detach(), list(torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)), 1.0


def _of_squared(guess: list[Tensor], observed: list[Tensor]) -> Cotangent:
    difference = [g - o for g, o in zip(guess, observed, strict=True)]
    return _inner(difference, difference), difference, 2.0


def _of_cosine(guess: list[Tensor], observed: list[Tensor]) -> Cotangent:
    dot, guessed, target = _inner(guess, observed), _inner(guess, guess), _inner(observed, observed)
    # The gradient is the part of -observed that is orthogonal to the guess, over the product of the norms.
    share = torch.where(guessed < SMALLEST, 0.0, -dot / guessed.clamp_min(SMALLEST))
    direction = [torch.addcmul(o, g, share) for g, o in zip(guess, observed, strict=True)]
    scale = -guessed.clamp_min(SMALLEST).rsqrt() * target.clamp_min(SMALLEST).rsqrt()
    return cosine_of(dot, guessed, target), direction, scale


def _inner(one: list[Tensor], two: list[Tensor]) -> Float[Tensor, ""]:
    """The inner product of two lists of tensors; the products themselves are never written."""
    return torch.stack([torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(one, two, strict=True)]).sum()
