"""What a layer's output says of the directions of its input that the gradient leaves open."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

STEPS = 300
ENOUGH = 1e-10
"""Relative gradient at which conjugate gradients have converged."""
FITS = 1e-2
"""Relative residual beyond which the outputs contradict the rest."""


@dataclass(frozen=True)
class Outputs:
    """What is known of an affine function of an input."""

    function: Callable[[Tensor], Tensor]
    value: Tensor
    known: Bool[Tensor, "1 ..."]


def completed(
    outputs: Sequence[Outputs], picture: Float[Tensor, "1 c h w"], left: Float[Tensor, "f k"]
) -> Float[Tensor, "1 c h w"] | None:
    """The picture with what is missing along the open directions of every channel; None if that is not determined."""
    size = (picture.shape[1], left.shape[1])
    if sum(int(o.known.sum()) for o in outputs) < size[0] * size[1]:
        return None

    def spread(amounts: Tensor) -> Tensor:
        return (amounts @ left.T).reshape(picture.shape)

    bases = [o.function(torch.zeros_like(picture)) for o in outputs]

    def seen(amounts: Tensor) -> Tensor:
        x = spread(amounts)
        return torch.cat([(o.function(x) - b)[o.known] for o, b in zip(outputs, bases, strict=True)])

    rest = torch.cat([(o.value - o.function(picture))[o.known] for o in outputs])
    amounts, rest = _least_squares(seen, rest, picture.new_zeros(size))
    wanted = torch.cat([o.value[o.known] for o in outputs])
    return picture + spread(amounts) if rest.norm() <= FITS * wanted.norm() else None


def _least_squares(linear: Callable[[Tensor], Tensor], wanted: Tensor, zero: Tensor) -> tuple[Tensor, Tensor]:
    """The solution and what is left of `wanted`, by conjugate gradients on the normal equations (CGLS)."""
    leaf = zero.clone().requires_grad_()
    with torch.enable_grad():
        image = linear(leaf)

    def back(values: Tensor) -> Tensor:
        return torch.autograd.grad(image, leaf, values, retain_graph=True)[0]

    x, rest, gradient = zero, wanted, back(wanted)
    direction, length = gradient, gradient.pow(2).sum()
    first = length
    for _ in range(STEPS):
        if length <= ENOUGH**2 * first:
            break
        along = linear(direction)
        step = length / along.pow(2).sum()
        x, rest = x + step * direction, rest - step * along
        gradient = back(rest)
        before, length = length, gradient.pow(2).sum()
        direction = gradient + length / before * direction
    return x, rest
