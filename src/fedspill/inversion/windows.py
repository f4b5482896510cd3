"""Pixels from the brightest and the darkest of the windows that hold them.

Every pixel lies below the smallest maximum and above the largest minimum of its windows (morphological closing and
opening); their middle is taken. Where the picture is smooth the two agree, unlike the maximum and the minimum of one
window. Pixels that a stride before the pool skips are taken to lie between, too.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

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
        last: likewise.
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
    parts = (part[:, windows] for part in torch.cat([values, nothing], 1).split(CHUNK))
    return torch.cat([part.amax(2) if most else part.amin(2) for part in parts])


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
