"""Values at scattered places of a picture, interpolated to all of its pixels.

Every pixel lies below the smallest maximum and above the largest minimum of its windows (morphological closing and
opening); their middle is taken. Where the picture is smooth the two agree, unlike the maximum and the minimum of one
window. Pixels that a stride before the pool skips are taken to lie between, too.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import Delaunay, KDTree
from torch import Tensor


@dataclass(frozen=True)
class Interpolation:
    """Each pixel as a weighted mean of the values at three places; the places alone decide, so it is made once.

    Attributes:
        index: of the places, for each pixel in row order.
        weight: of each of these places; the sum over the three is 1.
        size: rows and columns.
    """

    index: Int[Tensor, "pixels 3"]
    weight: Float[Tensor, "pixels 3"]
    size: tuple[int, int]

    def __call__(self, values: Float[Tensor, "m places"]) -> Float[Tensor, "m h w"]:
        """The pictures."""
        parts = (values[:, self.index[:, k]] * self.weight[:, k] for k in range(3))
        return sum(parts, start=values.new_zeros(1)).view(len(values), *self.size)


def interpolation(places: Float[Tensor, "places 2"], size: tuple[int, int]) -> Interpolation:
    """Linear on the triangles between the places (rows, columns); outside of them the nearest one counts."""
    known = places.cpu().double().numpy()
    pixels = np.stack(np.meshgrid(*(np.arange(s, dtype=np.float64) for s in size), indexing="ij"), -1).reshape(-1, 2)
    nearest = np.asarray(cast(Any, KDTree)(known).query(pixels)[1])
    index, weight = np.repeat(nearest[:, None], 3, 1), np.tile([1.0, 0.0, 0.0], (len(pixels), 1))
    if np.linalg.matrix_rank(known - known[:1]) == 2:  # places on one line make no triangle
        mesh = cast(Any, Delaunay)(known)
        simplex = np.asarray(mesh.find_simplex(pixels))
        inside = simplex >= 0
        index[inside] = np.asarray(mesh.simplices)[simplex[inside]]
        weight[inside] = _barycentric(np.asarray(mesh.transform)[simplex[inside]], pixels[inside])
    made = torch.from_numpy(index).to(places.device), torch.from_numpy(weight).to(places.device)
    return Interpolation(made[0].long(), made[1], size)


def _barycentric(transform: Any, points: Any) -> Any:
    two = np.einsum("nij,nj->ni", transform[:, :2], points - transform[:, 2])
    return np.concatenate([two, 1 - two.sum(1, keepdims=True)], 1)


CHUNK = 8
"""Pictures at a time."""


def between(
    first: Float[Tensor, "f 2"],
    last: Float[Tensor, "f 2"],
    brightest: Bool[Tensor, " f"],
    values: Float[Tensor, "m f"],
    size: tuple[int, int],
) -> tuple[Float[Tensor, "places 2"], Float[Tensor, "m places"]]:
    """Pixels (row, column) that the windows hold, and their values.

    If only maxima are known, or only minima, then these bounds are the values.

    Args:
        first: row and column of the first pixel of each window; a window may have one pixel.
        last: row and column of the last pixel of each window.
        brightest: the window's value is its maximum, else its minimum.
        values: of the windows in m pictures.
        size: rows and columns of the pictures.
    """
    alone = (last - first < 0.5).all(1)
    bounds = [
        _extreme(first[which], last[which], values[:, which], size, most)
        for which, most in ((brightest | alone, False), (~brightest | alone, True))
    ]
    shown = [b[0].isfinite() for b in bounds]
    both = shown[0] & shown[1]
    if bool(both.any()):
        shown, worth = both, (bounds[0] + bounds[1]) / 2
    else:
        shown, worth = shown[0] | shown[1], torch.where(shown[0], bounds[0], bounds[1])
    pixels = shown.nonzero()[:, 0]
    return torch.stack([pixels // size[1], pixels % size[1]], 1).to(values), worth[:, shown]


def _extreme(first: Tensor, last: Tensor, values: Tensor, size: tuple[int, int], most: bool) -> Tensor:
    """The largest or smallest value of each pixel's windows (m, pixels); infinite without any."""
    windows = _windows_of(*_members(first.round().long(), last.round().long(), size), size[0] * size[1], len(first))
    nothing = values.new_full((len(values), 1), -float("inf") if most else float("inf"))
    parts = (chunk[:, windows] for chunk in torch.cat([values, nothing], 1).split(CHUNK))
    return torch.cat([chunk.amax(2) if most else chunk.amin(2) for chunk in parts])


def _members(first: Tensor, last: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Window and pixel of every pair in which the window holds the pixel."""
    windows, pixels = [first.new_zeros(0)], [first.new_zeros(0)]
    rows, columns = (last - first).amax(0).tolist() if len(first) else (-1, -1)
    for y in range(rows + 1):
        for x in range(columns + 1):
            place = first + first.new_tensor([y, x])
            held = (place <= last).all(1)
            windows.append(held.nonzero()[:, 0])
            pixels.append(place[held, 0] * size[1] + place[held, 1])
    return torch.cat(windows), torch.cat(pixels)


def _windows_of(windows: Tensor, pixels: Tensor, count: int, empty: int) -> Int[Tensor, "pixels most"]:
    """The windows of each pixel, one row each, filled up with `empty`."""
    order = pixels.argsort()
    windows, pixels = windows[order], pixels[order]
    number = torch.bincount(pixels, minlength=count)
    rank = torch.arange(len(pixels), device=pixels.device) - (number.cumsum(0) - number)[pixels]
    table = pixels.new_full((count, max(int(number.max()), 1)), empty)
    table[pixels, rank] = windows
    return table
