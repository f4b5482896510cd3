"""Layers with constant weights that tell the products of their weights' gradients with observed ones.

A layer computes as usual and notes points: a tensor on its way, and what the products are once the gradient of this
tensor is known. Stacked candidates lie one after another in the batch, `tape.stack` of them; observed gradients have a
dimension before those of the parameter, j of which r / j candidates each are compared with (`products.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.inversion.kernels.convolution import Geometry, correlate, weight_gradient
from fedspill.inversion.kernels.products import Products, cheaper_unformed, image_of, unformed
from fedspill.inversion.kernels.winograd import (
    Tiling,
    best_tile,
    input_tiles,
    output_of,
    transformed,
    transformed_adjoint,
)

OnGradient = Callable[[Tensor], None]


@dataclass
class Tape:
    """What the layers noted in one pass.

    Attributes:
        stack: independent candidates in one batch, r.
        tensors: the points.
        readings: for each point what to do with its gradient: to add to one of the next two.
        formed: gradients of parameters (r, k) with the observed ones (j, k).
        products: of gradients that are never formed.
        contiguous: the network needs its pictures channel by channel in memory.
    """

    stack: int = 1
    contiguous: bool = False
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    readings: list[OnGradient] = field(default_factory=list[OnGradient])
    formed: list[tuple[Tensor, Tensor]] = field(default_factory=list[tuple[Tensor, Tensor]])
    products: list[Products] = field(default_factory=list[Products])

    def note(self, tensor: Tensor, reading: OnGradient) -> None:
        """A point."""
        self.tensors.append(tensor)
        self.readings.append(reading)

    def form(self, gradient: Tensor, observed: Tensor) -> None:
        """A gradient (r, ...) that is there, and the observed ones (j, ...)."""
        self.formed.append((gradient.reshape(len(gradient), -1), observed.reshape(len(observed), -1)))  # () each, too

    def sums(self, g: Tensor) -> Tensor:
        """(r n, c, h, w) summed over all but candidates and channels: (r, c)."""
        return g.sum((0, 2, 3))[None] if self.stack == 1 else g.unflatten(0, (self.stack, -1)).sum((1, 3, 4))


class GhostLinear:
    """`nn.Linear` on (n, ..., i)."""

    def __init__(self, layer: nn.Linear, weight: Tensor | None, bias: Tensor | None, tape: Tape) -> None:
        self.layer, self.weight, self.bias, self.tape = layer, weight, bias, tape

    def __call__(self, x: Tensor) -> Tensor:
        """(n, ..., i) to (n, ..., o)."""
        y = functional.linear(x, self.layer.weight, self.layer.bias)
        self.tape.note(y, lambda g: self._read(x, g))
        return y

    def _read(self, x: Tensor, g: Tensor) -> None:
        rows, outer = (v.reshape(self.tape.stack, -1, v.shape[-1]) for v in (x, g))
        if self.bias is not None:
            self.tape.form(outer.sum(1), self.bias)
        if self.weight is None:
            return
        if cheaper_unformed(rows.shape[1], rows.shape[2], outer.shape[2]):
            self.tape.products.append(unformed(rows, outer, image_of(rows, self.weight)))
        else:
            self.tape.form(outer.transpose(1, 2) @ rows, self.weight)


class GhostBatchNorm2d:
    """`nn.BatchNorm2d` in eval mode: one scale and one shift per channel."""

    def __init__(self, layer: nn.BatchNorm2d, weight: Tensor | None, bias: Tensor | None, tape: Tape) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.weight, self.bias, self.tape = weight, bias, tape
        self.mean, self.inverse = layer.running_mean, (layer.running_var + layer.eps).rsqrt()
        self.scale = (layer.weight * self.inverse)[:, None, None]
        self.shift = (layer.bias - self.mean * layer.weight * self.inverse)[:, None, None]

    def __call__(self, x: Tensor) -> Tensor:
        """(n, c, h, w) to the same."""
        y = torch.addcmul(self.shift, x, self.scale)
        self.tape.note(y, lambda g: self._read(x, g))
        return y

    def _read(self, x: Tensor, g: Tensor) -> None:
        shifted = self.tape.sums(g)
        if self.bias is not None:
            self.tape.form(shifted, self.bias)
        if self.weight is not None:
            self.tape.form((self.tape.sums(g * x) - self.mean * shifted) * self.inverse, self.weight)


class GhostConv2d:
    """`nn.Conv2d`, by Winograd's method where that is cheaper."""

    def __init__(self, layer: nn.Conv2d, weight: Tensor | None, bias: Tensor | None, tape: Tape) -> None:
        self.layer, self.weight, self.bias, self.tape = layer, weight, bias, tape
        self.kernels = cache(lambda m: transformed(layer.weight, m).transpose(1, 2))
        # The places of the kernel first, as the products of tiles have them.
        self.by_place = cache(lambda observed: observed.permute(0, 3, 4, 1, 2).reshape(len(observed), -1))

    def __call__(self, x: Tensor) -> Tensor:
        """(n, i, h, w) to (n, o, h', w')."""
        layer = self.layer
        padding = (0, 0) if isinstance(layer.padding, str) else layer.padding
        if layer.padding_mode != "zeros":
            ends = (padding[1], padding[1], padding[0], padding[0])
            x, padding = functional.pad(x, ends, layer.padding_mode), (0, 0)
        m = 0 if x.is_cuda else self._tile(x, padding)
        y = self._by_tiles(x, m, padding) if m else self._direct(x, padding)
        y = y.contiguous() if self.tape.contiguous else y
        if layer.bias is None:
            return y
        y = y + layer.bias[:, None, None]
        bias = self.bias
        if bias is not None:
            self.tape.note(y, lambda g: self.tape.form(self.tape.sums(g), bias))
        return y

    def _tile(self, x: Tensor, padding: tuple[int, ...]) -> int:
        layer, shape = self.layer, (x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2)
        plain = (layer.kernel_size, layer.stride, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
        if not plain or max(padding) > 1 or self._few(shape[0] * shape[1] * len(x)):
            return 0
        return best_tile(len(x), shape, layer.in_channels, layer.out_channels)

    def _by_tiles(self, x: Tensor, m: int, padding: tuple[int, ...]) -> Tensor:
        tiling = Tiling(m, len(x), x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2, padding)
        cut = input_tiles(tiling, x)
        y = cut @ self.kernels(m)
        if self.weight is not None:
            self.tape.note(y, lambda g: self._read_tiles(m, cut, g))
        return output_of(tiling, y)

    def _read_tiles(self, m: int, cut: Tensor, g: Tensor) -> None:
        r = self.tape.stack
        rows, outer = (v.unflatten(1, (r, -1)) for v in (cut, g))
        gradient = outer.transpose(2, 3) @ rows  # places, r, o, i
        places = transformed_adjoint(gradient.flatten(1), m).unflatten(1, (r, -1))
        self.tape.form(places.transpose(0, 1), self.by_place(self.weight))

    def _direct(self, x: Tensor, padding: tuple[int, ...]) -> Tensor:
        layer = self.layer
        geometry = Geometry(layer.stride, padding, layer.dilation, layer.groups, x.shape[1:], layer.weight.shape)
        y = correlate(geometry, x, layer.weight)
        if self.weight is not None:
            self.tape.note(y, lambda g: self._read_direct(geometry, x, g))
        return y

    def _read_direct(self, geometry: Geometry, x: Tensor, g: Tensor) -> None:
        assert self.weight is not None
        r, few = self.tape.stack, self._few(g[0, 0].numel() * len(g))
        if not few and (r == 1 or geometry.groups > 1):
            each = zip(g.chunk(r), x.chunk(r), strict=True)
            self.tape.form(torch.stack([weight_gradient(geometry, *e) for e in each]), self.weight)
            return
        columns = functional.unfold(x, geometry.kernel[2:], geometry.dilation, geometry.padding, geometry.stride)
        rows, outer = (_by_position(v, r) for v in (columns, g.flatten(2)))
        if few and len(self.weight) == 1:  # a convolution takes less than the product of its columns
            image = correlate(geometry, x, self.weight[0]).flatten(2)
            self.tape.products.append(unformed(rows, outer, _by_position(image, r)))
        elif few:
            self.tape.products.append(unformed(rows, outer, image_of(rows, self.weight.flatten(2))))
        else:
            self.tape.form(outer.transpose(1, 2) @ rows, self.weight)

    def _few(self, positions: int) -> bool:
        """The gradient of one candidate need not be formed; `positions` are those of the whole stack."""
        weight = self.layer.weight
        return self.layer.groups == 1 and cheaper_unformed(positions // self.tape.stack, weight[0].numel(), len(weight))


def _by_position(values: Tensor, stack: int) -> Tensor:
    """(r n, c, p) to (r, n p, c)."""
    return values.unflatten(0, (stack, -1)).transpose(2, 3).flatten(1, 2)
