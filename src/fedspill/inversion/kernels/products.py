"""Inner products of a gradient of parameters with an observed one and with itself, all that the cosine needs.

Where a layer sees few positions, the gradient itself, an outer product of what enters the layer and of what comes
back, is larger than its two factors; then neither it nor its cotangent is ever formed (the norm as in Li et al.,
"Large Language Models Can Be Strong Differentially Private Learners", ICLR 2022, arXiv:2110.05679, section 4).
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Products = Float[Tensor, "2 r"]
"""For each of r candidates the inner product with its observed gradient, and the squared norm.

There are j observed gradients: the first r / j candidates are compared with the first, and so on. One is shared by all.
"""


def formed(gradient: Float[Tensor, "r k"], observed: Float[Tensor, "j k"]) -> Products:
    """The products of gradients that are there; differentiable once in `gradient`."""
    return cast("Tensor", _Formed.apply(gradient, observed))


def unformed(rows: Float[Tensor, "r p i"], outer: Float[Tensor, "r p o"], image: Float[Tensor, "r p o"]) -> Products:
    """The products of the gradients outer^T rows, from their factors; differentiable once.

    Args:
        rows: what enters the layer at p positions.
        outer: the gradients of what leaves it.
        image: `rows` after the layer with the observed gradient for a weight, as `image_of` makes it.
    """
    norms = cast("Tensor", _Norms.apply(rows, outer))
    return torch.stack([(outer * image).sum((1, 2)), norms])


def image_of(rows: Float[Tensor, "r p i"], observed: Float[Tensor, "j o i"]) -> Float[Tensor, "r p o"]:
    """`rows` after a linear layer with the observed gradient, each candidate's own, for a weight."""
    if len(observed) == 1:
        return functional.linear(rows, observed[0])
    return (_by_update(rows, observed).flatten(1, 2) @ observed.transpose(1, 2)).reshape(*rows.shape[:2], -1)


def cheaper_unformed(positions: int, inside: int, outside: int) -> bool:
    """Whether two Gram matrices of the positions cost less than the gradient."""
    return positions * (inside + outside) < inside * outside


class _Formed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, observed: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, observed)
        if len(gradient) == 1:  # products of vectors write nothing
            one = gradient[0]
            return torch.stack([torch.dot(one, observed[0]), torch.dot(one, one)])[:, None]
        norms = (gradient[:, None] @ gradient[:, :, None]).flatten()
        if len(observed) == 1:
            return torch.stack([gradient @ observed[0], norms])
        return torch.stack([(_by_update(gradient, observed) @ observed[:, :, None]).flatten(), norms])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        gradient, observed = ctx.saved_tensors
        along, norm = (_by_update(factor, observed)[:, :, None] for factor in outer[0])
        pulled = (_by_update(gradient, observed) * (2 * norm)).addcmul_(observed[:, None], along)
        return pulled.flatten(0, 1), None


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, outer: Tensor) -> Tensor:
        of_rows, of_outer = rows @ rows.transpose(1, 2), outer @ outer.transpose(1, 2)
        ctx.save_for_backward(rows, outer, of_rows, of_outer)
        return (of_rows * of_outer).sum((1, 2))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        rows, leaving, of_rows, of_outer = ctx.saved_tensors
        twice = 2 * outer[0][:, None, None]
        return (of_outer * twice) @ rows, (of_rows * twice) @ leaving


def _by_update(values: Tensor, observed: Tensor) -> Tensor:
    """(r, ...) to (j, r / j, ...), without a copy."""
    return values.unflatten(0, (len(observed), -1))


SMALLEST = 1e-30


def cosine_of(dot: Tensor, guessed: Tensor, observed: Tensor) -> Tensor:
    """1 - cosine, from an inner product and two squared norms.

    A candidate whose gradient is 0 (dead units) is at distance 1, with a gradient of 0 and not of NaN.
    """
    return 1 - dot / (guessed.clamp_min(SMALLEST).sqrt() * observed.clamp_min(SMALLEST).sqrt())
