"""A convolution's geometry, its patches, and how the gradient of its weight depends on its input."""

from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Pair = tuple[int, int]
INDEPENDENT = 1e-10
"""Share of the largest eigenvalue of the patches' products from which on they are independent."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a convolution with zero padding.

    Attributes:
        output: (h', w').
        rest: rows and columns at the end of the padded input that no patch reaches.
    """

    output: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    rest: Pair


def is_plain(layer: nn.Conv2d) -> bool:
    """One group, padded with as many zeros on both sides: what this module can do."""
    spans = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    even = layer.padding != "same" or not any(s % 2 for s in spans)
    return layer.groups == 1 and layer.padding_mode == "zeros" and even


def geometry(layer: nn.Conv2d, inside: torch.Size) -> Geometry:
    """The sizes of the layer on an input (b, i, h, w)."""
    ways = range(2)
    padding = [_padding(layer, w) for w in ways]
    reach = [inside[2 + w] + 2 * padding[w] - layer.dilation[w] * (layer.kernel_size[w] - 1) - 1 for w in ways]
    output, rest = ([f(reach[w], layer.stride[w]) for w in ways] for f in (_steps, int.__mod__))
    return Geometry(_pair(output), _pair(layer.stride), _pair(padding), _pair(layer.dilation), _pair(rest))


def _padding(layer: nn.Conv2d, way: int) -> int:
    if layer.padding == "same":
        return layer.dilation[way] * (layer.kernel_size[way] - 1) // 2
    return 0 if isinstance(layer.padding, str) else layer.padding[way]


def _steps(reach: int, stride: int) -> int:
    return reach // stride + 1


def _pair(values: list[int] | tuple[int, ...]) -> Pair:
    first, second = values
    return first, second


def spread(
    at: Float[Tensor, "n o p q"], kernels: Float[Tensor, "o i k l"], shape: Geometry
) -> Float[Tensor, "n i h w"]:
    """The transposed convolution, onto the input's pixels."""
    return functional.conv_transpose2d(
        at, kernels, stride=shape.stride, padding=shape.padding, output_padding=shape.rest, dilation=shape.dilation
    )


def patches(x: Float[Tensor, "b i h w"], layer: nn.Conv2d) -> Float[Tensor, "d p"]:
    """What the layer sees, one column per example and position, in the order of its flattened weight."""
    shape = geometry(layer, x.shape)
    seen = functional.unfold(x, layer.kernel_size, shape.dilation, shape.padding, shape.stride)
    return seen.transpose(0, 1).flatten(1)


def design(cotangent: Float[Tensor, "b o p q"], layer: nn.Conv2d, inside: torch.Size) -> Float[Tensor, "e f"]:
    """The matrix from a channel of the inputs (f = b * h * w) to its part of the weight's gradient (e = o * k * l)."""
    size = prod(layer.kernel_size)
    taps = torch.eye(size, dtype=cotangent.dtype, device=cotangent.device).reshape(1, size, *layer.kernel_size)
    shape = geometry(layer, inside)
    return torch.cat([spread(one[:, None], taps, shape).flatten(2).flatten(0, 1) for one in cotangent], 1)


def cotangent_of(
    gradient: Float[Tensor, "o i k l"], x: Float[Tensor, "b i h w"], layer: nn.Conv2d
) -> Float[Tensor, "b o p q"] | None:
    """The derivative by the layer's output, from its input and its weight's gradient; None if this is not unique."""
    if not is_plain(layer):
        return None
    seen = patches(x, layer)
    if seen.shape[1] > seen.shape[0]:
        return None
    values, vectors = torch.linalg.eigh(seen.T @ seen)
    if values[0] < INDEPENDENT * values[-1]:
        return None
    cotangent = gradient.flatten(1) @ seen @ (vectors / values) @ vectors.T
    return cotangent.reshape(len(gradient), len(x), *geometry(layer, x.shape).output).transpose(0, 1)
