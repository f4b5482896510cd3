"""Convolution as a bilinear map whose second derivatives compute nothing that is not asked for.

PyTorch's double backward of a convolution always computes the gradient of the weights too, an eighth of one
iteration of gradient matching, and at one image in a form without a fast kernel. Here the three maps that make up
all derivatives (output, input gradient, weight gradient) are each other's derivatives, and each is skipped where its
result is not needed.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Geometry:
    """How the kernel moves; `shape` is that of the input (c, h, w), `kernel` that of the weight (o, c/groups, a, b)."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    shape: tuple[int, ...]
    kernel: tuple[int, ...]


def correlate(geometry: Geometry, x: Float[Tensor, "n i h w"], weight: Float[Tensor, "o j a b"]) -> Tensor:
    """The convolution without bias; differentiable any number of times."""
    return cast("Tensor", _Output.apply(geometry, x, weight))


def weight_gradient(geometry: Geometry, outer: Float[Tensor, "n o down across"], x: Float[Tensor, "n i h w"]) -> Tensor:
    """The gradient of the weight for the gradient `outer` of the output; differentiable in both."""
    return cast("Tensor", _ToWeight.apply(geometry, outer, x))


def _input_gradient(geometry: Geometry, outer: Tensor, weight: Tensor) -> Tensor:
    return cast("Tensor", _ToInput.apply(geometry, outer, weight))


def _backward(geometry: Geometry, outer: Tensor, x: Tensor, weight: Tensor, *, to_input: bool) -> Tensor:
    """The gradient of the input, or of the weight; of the other only its shape is used."""
    g, mask = geometry, [to_input, not to_input, False]
    gradients = torch.ops.aten.convolution_backward(
        outer, x, weight, None, g.stride, g.padding, g.dilation, False, (0, 0), g.groups, mask
    )
    return gradients[0] if to_input else gradients[1]


def joined_columns(geometry: Geometry, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "k p"]:
    """All patches under the kernel, of all examples, as columns."""
    g = geometry
    columns = functional.unfold(x, g.kernel[2:], g.dilation, g.padding, g.stride)
    return columns.transpose(0, 1).flatten(1)


class _Output(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, x: Tensor, weight: Tensor) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(x, weight)
        # The kernels for channels last are several times slower where the picture is small.
        g = geometry
        return functional.conv2d(x.contiguous(), weight, None, g.stride, g.padding, g.dilation, g.groups)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        _, to_x, to_weight = ctx.needs_input_grad
        return (
            None,
            _input_gradient(ctx.geometry, outer[0], weight) if to_x else None,
            weight_gradient(ctx.geometry, outer[0], x) if to_weight else None,
        )


class _ToInput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, outer: Tensor, weight: Tensor) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(outer, weight)
        like = outer.new_empty(len(outer), *geometry.shape)
        return _backward(geometry, outer.contiguous(), like, weight, to_input=True)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        inner, weight = ctx.saved_tensors
        _, to_inner, to_weight = ctx.needs_input_grad
        return (
            None,
            correlate(ctx.geometry, outer[0], weight) if to_inner else None,
            weight_gradient(ctx.geometry, inner, outer[0]) if to_weight else None,
        )


class _ToWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, geometry: Geometry, outer: Tensor, x: Tensor) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(outer, x)
        outer, x = outer.contiguous(), x.contiguous()
        positions = outer.numel() // outer.shape[1]
        if geometry.groups == 1 and len(x) > 1 and positions < geometry.kernel[0] and not x.is_cuda:
            # oneDNN's kernel is several times slower than one product of matrices on small pictures.
            return (outer.transpose(0, 1).flatten(1) @ joined_columns(geometry, x).T).view(geometry.kernel)
        return _backward(geometry, outer, x, x.new_empty(geometry.kernel), to_input=False)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        inner, x = ctx.saved_tensors
        _, to_inner, to_x = ctx.needs_input_grad
        return (
            None,
            correlate(ctx.geometry, x, outer[0]) if to_inner else None,
            _input_gradient(ctx.geometry, inner, outer[0]) if to_x else None,
        )
