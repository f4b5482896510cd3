"""3x3 convolutions by Winograd's minimal filtering: a quarter of the products, differentiable any number of times.

Lavin, Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308. With the input cut
into overlapping tiles of t x t = (m + 2) x (m + 2), one convolution is

    output = assemble(tiles(x) @ transformed(weight)),

t * t products of matrices between two fixed linear maps. All derivatives have the same form, so that gradient
matching, which makes seven convolutions out of one, saves in all of them.

Lavin, Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308, sections 4.1 and 4.3,
for the constant matrices of F(2x2, 3x3) and F(4x4, 3x3).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_WEIGHT = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


@lru_cache
def matrix(kind: str, m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The one-dimensional map applied to rows and columns, as one matrix over flattened tiles."""
    rows = torch.tensor({"input": _INPUT, "weight": _WEIGHT, "output": _OUTPUT}[kind][m], dtype=torch.float64)
    return torch.kron(rows, rows).to(device, dtype)


TRANSFORM = 60
"""What one number of a transformed tile costs beside one multiply-add of a matrix product (measured)."""
WEIGHT = 40
"""What one number of a transformed weight costs, in the same unit (measured)."""


def _matrix(kind: str, m: int, like: Tensor) -> Tensor:
    return matrix(kind, m, like.dtype, like.device)


@dataclass(frozen=True)
class Tiling:
    """How an output of n x height x width is cut into tiles of m x m.

    The input is larger by 2 in both directions, less the zeros that are set around it: `padding`, at the top and the
    bottom, at the left and the right.
    """

    m: int
    n: int
    height: int
    width: int
    padding: tuple[int, ...] = (0, 0)

    @property
    def t(self) -> int:
        """Side of an input tile."""
        return self.m + 2

    @property
    def down(self) -> int:
        """Tiles in a column."""
        return -(-self.height // self.m)

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.m)

    @property
    def count(self) -> int:
        """Tiles of all examples."""
        return self.n * self.down * self.across


def best_tile(n: int, shape: tuple[int, int], inside: int, outside: int) -> int:
    """The side of the cheapest output tile, 2 or 4, or 0 where a direct convolution is cheaper.

    Args:
        n: examples.
        shape: height and width of the output.
        inside: input channels.
        outside: output channels.
    """

    def cost(m: int) -> int:
        count = Tiling(m, n, *shape).count
        transforms = TRANSFORM * count * (inside + outside) + WEIGHT * inside * outside
        return (m + 2) ** 2 * (count * inside * outside + transforms)

    m = min((2, 4), key=cost)
    return m if cost(m) < 9 * n * shape[0] * shape[1] * inside * outside else 0


def transformed(weight: Float[Tensor, "o i 3 3"], m: int) -> Float[Tensor, "places o i"]:
    """The weight as a matrix for every place of a tile; output tiles are m x m, with m 2 or 4."""
    return (_matrix("weight", m, weight) @ weight.reshape(-1, 9).T).view(-1, *weight.shape[:2])


def transformed_adjoint(gradient: Float[Tensor, "places k"], m: int) -> Float[Tensor, "9 k"]:
    """The transpose of `transformed` for any number of weights, the places of the kernel first."""
    return _matrix("weight", m, gradient).T @ gradient


def input_tiles(tiling: Tiling, x: Float[Tensor, "n i h w"]) -> Float[Tensor, "places count i"]:
    """`tiles`, differentiable any number of times."""
    return cast("Tensor", _Linear.apply(tiling, x, tiles, tiles_adjoint))


def output_of(tiling: Tiling, y: Float[Tensor, "places count o"]) -> Float[Tensor, "n o height width"]:
    """`assemble`, differentiable any number of times."""
    return cast("Tensor", _Linear.apply(tiling, y, assemble, assemble_adjoint))


def convolve(x: Float[Tensor, "n i h w"], weight: Float[Tensor, "o i 3 3"], m: int, padding: int = 0) -> Tensor:
    """The convolution of stride 1; differentiable any number of times in both."""
    tiling = Tiling(m, len(x), x.shape[2] - 2 + 2 * padding, x.shape[3] - 2 + 2 * padding, (padding, padding))
    return output_of(tiling, input_tiles(tiling, x) @ transformed(weight, m).transpose(1, 2))


def tiles(tiling: Tiling, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "places count c"]:
    """Input tiles, transformed; those at the lower and right edge are filled up with 0."""
    m, t = tiling.m, tiling.t
    (top, left), extra = tiling.padding, (tiling.down * m - tiling.height, tiling.across * m - tiling.width)
    last = functional.pad(x, (left, left + extra[1], top, top + extra[0])).permute(0, 2, 3, 1)
    cut = last.unfold(1, t, m).unfold(2, t, m).permute(4, 5, 0, 1, 2, 3).reshape(t * t, -1)
    return (_matrix("input", m, x) @ cut).view(t * t, tiling.count, -1)


def tiles_adjoint(tiling: Tiling, x: Float[Tensor, "places count c"]) -> Float[Tensor, "n c h w"]:
    """The transpose of `tiles`: overlaps are summed."""
    m, n, down, across = tiling.m, tiling.n, tiling.down, tiling.across
    back = (_matrix("input", m, x).T @ x.reshape(len(x), -1)).view(tiling.t, tiling.t, n, down, across, -1)
    whole = back.new_zeros(n, down + 1, m, across + 1, m, back.shape[-1])
    cut = back.permute(2, 3, 0, 4, 1, 5)  # n, down, t, across, t, c
    for row, rows in ((0, slice(0, m)), (1, slice(m, tiling.t))):
        for column, columns in ((0, slice(0, m)), (1, slice(m, tiling.t))):
            piece = cut[:, :, rows, :, columns]
            target = whole[:, row : row + down, : piece.shape[2], column : column + across, : piece.shape[4]]
            target += piece
    full = whole.view(n, (down + 1) * m, (across + 1) * m, -1).permute(0, 3, 1, 2)
    top, left = tiling.padding
    return full[:, :, top : tiling.height + 2 - top, left : tiling.width + 2 - left]


def assemble(tiling: Tiling, y: Float[Tensor, "places count c"]) -> Float[Tensor, "n c height width"]:
    """Output tiles, transformed back and put side by side."""
    m, n, down, across = tiling.m, tiling.n, tiling.down, tiling.across
    parts = (_matrix("output", m, y) @ y.reshape(len(y), -1)).view(m, m, n, down, across, -1)
    whole = parts.permute(2, 3, 0, 4, 1, 5).reshape(n, down * m, across * m, -1)
    return whole[:, : tiling.height, : tiling.width].permute(0, 3, 1, 2)


def assemble_adjoint(tiling: Tiling, y: Float[Tensor, "n c h w"]) -> Float[Tensor, "places count c"]:
    """The transpose of `assemble`."""
    m, n, down, across = tiling.m, tiling.n, tiling.down, tiling.across
    padded = functional.pad(y, (0, across * m - tiling.width, 0, down * m - tiling.height)).permute(0, 2, 3, 1)
    parts = padded.reshape(n, down, m, across, m, -1).permute(2, 4, 0, 1, 3, 5).reshape(m * m, -1)
    return (_matrix("output", m, y).T @ parts).view(tiling.t**2, tiling.count, -1)


TilingMap = Callable[[Tiling, Tensor], Tensor]


class _Linear(torch.autograd.Function):
    """A linear map whose derivative is its transpose, and so on."""

    @staticmethod
    def forward(ctx: Any, tiling: Tiling, x: Tensor, function: TilingMap, adjoint: TilingMap) -> Tensor:
        ctx.tiling, ctx.function, ctx.adjoint = tiling, function, adjoint
        return function(tiling, x)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        return None, _Linear.apply(ctx.tiling, outer[0], ctx.adjoint, ctx.function), None, None
