"""From the features of a network that hands pixels on, one by one, back to the picture.

Which pixel a feature shows, and how its value depends on it, is found by passing probe pictures through the
network, so nothing has to be known of strides, padding and pools.
"""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.interpolate import griddata
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.inversion.head import Head, features_and_logits

CHUNK = 32


@dataclass(frozen=True)
class PixelMap:
    """Features f of a layer as functions of one pixel each.

    Attributes:
        grey: r pixel values, ascending.
        answers: each feature's value in pictures of that one grey, float64.
        alive: the feature depends on the picture, and monotonically.
        colour: channel of the pixel.
        row: its row, in pixels; of a pool, the middle of its window.
        column: likewise.
    """

    grey: Float[Tensor, " r"]
    answers: Float[Tensor, "f r"]
    alive: Bool[Tensor, " f"]
    colour: Int[Tensor, " f"]
    row: Float[Tensor, " f"]
    column: Float[Tensor, " f"]

    def resolution(self) -> int:
        """How many different pixels of the first channel the features show."""
        seen = self.alive & (self.colour == 0)
        return len(torch.stack([self.row[seen], self.column[seen]]).round().unique(dim=1).T)

    def pixels(self, features: Float[Tensor, " f"]) -> Float[Tensor, " f"]:
        """Each feature's pixel value, by linear interpolation in `answers`, clamped to `grey`."""
        rising = self.answers[:, -1:] > self.answers[:, :1]
        sign = torch.where(rising, 1.0, -1.0).to(self.answers)
        table, wanted = (sign * self.answers).contiguous(), sign * features.double()[:, None]
        upper = torch.searchsorted(table, wanted).clamp(1, len(self.grey) - 1)
        low, high = table.gather(1, upper - 1), table.gather(1, upper)
        share = ((wanted - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)[:, 0]
        grey = self.grey.double()
        return grey[upper[:, 0] - 1].lerp(grey[upper[:, 0]], share)


def pixel_map(model: Model, layer: str, levels: int = 65) -> PixelMap:
    """Finds the pixel behind every input of the linear layer named `layer`.

    Raises:
        NotApplicable: the input is no image, or no feature shows a pixel of every channel.
    """
    spec = model.input
    if not isinstance(spec, ImageSpec):
        raise NotApplicable(f"pictures are needed, the model takes {type(spec).__name__}")
    exact, head = model.to(model.like.device, torch.float64), Head(layer, "", None)
    channels, height, width = spec.shape
    low, high = spec.bounds
    grey = torch.linspace(low, high, levels, dtype=torch.float64, device=model.like.device)

    def features(pictures: Tensor) -> Tensor:
        parts = (pictures * (high - low) + low).expand(-1, *spec.shape).split(CHUNK)
        return torch.cat([features_and_logits(exact, exact.params, spec.encode(p), head)[0] for p in parts])

    answers = features(((grey - low) / (high - low)).view(-1, 1, 1, 1)).T.contiguous()
    steps = answers.diff(dim=1)
    moved = (answers[:, -1] - answers[:, 0]).abs()
    alive = (moved > 1e-6 * moved.max()) & ((steps >= 0).all(1) | (steps <= 0).all(1))
    single = torch.eye(channels).to(exact.like).view(channels, channels, 1, 1)
    colour = (features(single) - answers[:, 0]).abs().argmax(0)
    place = PixelMap(grey, answers, alive, colour, answers[:, 0], answers[:, 0])
    rows = torch.linspace(0, 1, height).to(exact.like).view(1, 1, height, 1)
    columns = torch.linspace(0, 1, width).to(exact.like).view(1, 1, 1, width)

    def position(ramp: Tensor, size: int) -> Tensor:
        # A maximum pool shows the far end of its window in both directions; the mean is its middle.
        there, back = features(ramp)[0], features(1 - ramp)[0]
        both = (place.pixels(there) - low) + (high - place.pixels(back))
        return both / (2 * (high - low)) * (size - 1)

    found = PixelMap(grey, answers, alive, colour, position(rows, height), position(columns, width))
    if any(not bool((alive & (colour == c)).any()) for c in range(channels)):
        raise NotApplicable(f"no input of the linear layer {layer!r} shows a pixel of every colour channel")
    return found


def picture(seen: PixelMap, features: Float[Tensor, " f"], spec: ImageSpec) -> Float[Tensor, "c h w"]:
    """The picture behind the features; between the pixels that they show it is interpolated linearly."""
    values, out = seen.pixels(features), list[Tensor]()
    for channel in range(spec.shape[0]):
        own = seen.alive & (seen.colour == channel)
        points = torch.stack([seen.row[own], seen.column[own]], 1)
        out.append(_interpolated(points, values[own], spec.shape[1:]))
    return torch.stack(out)


def _interpolated(points: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    # Several features may show the same pixel: their mean counts.
    place, index = points.round(decimals=2).unique(dim=0, return_inverse=True)
    total = values.new_zeros(len(place)).index_add(0, index, values)
    mean = total / values.new_zeros(len(place)).index_add(0, index, torch.ones_like(values))
    known, worth = place.cpu().numpy(), mean.cpu().numpy()
    grid = tuple(np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64))
    filled = cast(Any, griddata)(known, worth, grid, method="nearest")
    if min(len(np.unique(known[:, 0])), len(np.unique(known[:, 1]))) > 1:
        linear = cast(Any, griddata)(known, worth, grid, method="linear")
        filled = np.where(np.isnan(linear), filled, linear)
    return torch.from_numpy(filled).to(values)
