"""The way back from the features of a network that hands pixels on, one by one, to the picture.

Which pixel a feature shows, and how its value depends on it, is found by passing probe pictures through the
network, so nothing has to be known of strides, padding and pools. A maximum pool shows the brightest pixel of a
window, or the darkest if the network mirrored the picture (`pixels.between`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, image_spec
from fedspill.core.model import Model
from fedspill.inversion.identity.pixels import between, interpolation
from fedspill.inversion.network.layers import layer_inputs

CHUNK = 8
"""Pictures at a time."""
INTERPOLATED = 0.9
"""The most confidence in a picture of which some pixels were not shown, but interpolated."""


@dataclass(frozen=True)
class PixelMap:
    """Features f of a layer as functions of one pixel each, or of one window.

    Attributes:
        grey: r pixel values, ascending.
        answers: each feature's value in pictures of that one grey, float64.
        alive: the feature depends on the picture, strictly monotonically.
        colour: channel of the pixel.
        first: row and column of the pixel, of a window those of its first pixel.
        last: those of its last pixel.
        brightest: of a window the brightest pixel counts, else the darkest.
    """

    grey: Float[Tensor, " r"]
    answers: Float[Tensor, "f r"]
    alive: Bool[Tensor, " f"]
    colour: Int[Tensor, " f"]
    first: Float[Tensor, "f 2"]
    last: Float[Tensor, "f 2"]
    brightest: Bool[Tensor, " f"]

    def resolution(self) -> int:
        """How many different pixels (or windows) of the first channel the features show."""
        seen = self.alive & (self.colour == 0)
        return len((self.first[seen] + self.last[seen]).round().unique(dim=0))

    def is_whole(self, spec: ImageSpec) -> bool:
        """Whether the features show every pixel, so that none is interpolated."""
        return self.resolution() == spec.shape[1] * spec.shape[2]

    def pixels(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """Each feature's pixel value, by linear interpolation in `answers`, clamped to `grey`."""
        return inverted(self.answers, self.grey, features)

    def of_channel(self, colour: int) -> "PixelMap":
        """The part that shows one colour."""
        chosen = self.alive & (self.colour == colour)
        parts = (self.answers, self.alive, self.colour, self.first, self.last, self.brightest)
        return PixelMap(self.grey, *(p[chosen] for p in parts))


def inverted(
    answers: Float[Tensor, "f r"], grey: Float[Tensor, " r"], features: Float[Tensor, "m f"]
) -> Float[Tensor, "m f"]:
    """The grey for which each feature would have its value."""
    rising = answers[:, -1:] > answers[:, :1]
    sign = torch.where(rising, 1.0, -1.0).to(answers)
    table, target = (sign * answers).contiguous(), (sign * features.to(answers).T).contiguous()
    upper = torch.searchsorted(table, target).clamp(1, len(grey) - 1)
    low, high = table.gather(1, upper - 1), table.gather(1, upper)
    share = ((target - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
    return grey[upper - 1].lerp(grey[upper], share).T


def pixel_map(model: Model, at: str, levels: int = 65) -> PixelMap:
    """Finds the pixel behind everything that enters the layer named `at`.

    Args:
        model: with the layers before `at` as identities.
        at: see `network.layers.layer_inputs`.
        levels: of grey, if a feature does not depend linearly on its pixel.

    Raises:
        NotApplicable: the input is no image, there is no such layer, or no feature shows a pixel of every channel.
    """
    spec = image_spec(model.input)
    exact = model.to(model.like.device, torch.float64)
    low, high = spec.bounds

    def features(pictures: Tensor) -> Tensor:
        parts = (pictures * (high - low) + low).expand(-1, *spec.shape).split(CHUNK)
        return torch.cat([layer_inputs(exact, at, spec.encode(p)).flatten(1) for p in parts])

    grey, answers = _answers(features, levels, exact.like)
    moved = (answers[:, -1] - answers[:, 0]).abs()
    alive = (moved > 1e-6 * moved.max()) & _strict(answers)
    single = torch.eye(spec.shape[0]).to(grey).view(spec.shape[0], -1, 1, 1)
    colour = (features(single) - answers[:, 0]).abs().argmax(0)
    if any(not bool((alive & (colour == c)).any()) for c in range(spec.shape[0])):
        raise NotApplicable(f"nothing that enters the layer {at!r} shows a pixel of every colour channel")
    first, last, brightest = _places(lambda p: inverted(answers, grey, features(p)), spec.shape[1:], grey)
    extent = last - first
    # Where a convolution pads with the far edge, a window at the border is none.
    alive &= (extent < extent[alive].median(0).values + 1.5).all(1)
    return PixelMap(grey * (high - low) + low, answers, alive, colour, first, last, brightest)


def _answers(features: Callable[[Tensor], Tensor], levels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Greys in [0, 1] and what the features say of each; few greys are enough for what is linear."""
    few = torch.linspace(0, 1, 5).to(like)
    answers = features(few.view(-1, 1, 1, 1)).T.contiguous()
    bent = (answers - torch.lerp(answers[:, :1], answers[:, -1:], few)).abs().amax(1) > 1e-9 * answers.abs().max()
    if not bool((bent & _strict(answers)).any()):
        return few, answers
    many = torch.linspace(0, 1, levels).to(like)
    return many, features(many.view(-1, 1, 1, 1)).T.contiguous()


def _strict(answers: Tensor) -> Tensor:
    """The feature tells every grey from every other."""
    steps = answers.diff(dim=1)
    return (steps > 0).all(1) | (steps < 0).all(1)


def _places(shares: Callable[[Tensor], Tensor], size: tuple[int, ...], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First and last row and column of every feature's window, and whether its brightest pixel counts."""
    ends, kinds = list[tuple[Tensor, Tensor]](), list[Tensor]()
    for axis, length in enumerate(size):
        scale = max(length - 1, 1)
        ramp = (torch.arange(length).to(like) / scale).view((1, 1, -1, 1) if axis == 0 else (1, 1, 1, -1))
        # A maximum pool shows the far end of its window in either direction, a minimum the near one.
        there, back = shares(ramp)[0] * scale, (1 - shares(1 - ramp)[0]) * scale
        ends.append((torch.minimum(there, back), torch.maximum(there, back)))
        kinds.append(there - back)
    first, last = (torch.stack([e[k] for e in ends], 1) for k in (0, 1))
    return first, last, kinds[0] + kinds[1] >= 0


def pictures(seen: PixelMap, features: Float[Tensor, "m f"], spec: ImageSpec) -> Float[Tensor, "m c h w"]:
    """The pictures behind the features, inside the bounds; pixels that are not shown are interpolated linearly."""
    channels, size = list[Tensor](), (spec.shape[1], spec.shape[2])
    features, last = features.to(seen.answers), None
    for colour in range(spec.shape[0]):
        index = (seen.alive & (seen.colour == colour)).nonzero()[:, 0]
        channel = seen.of_channel(colour)
        values = torch.cat([channel.pixels(rows[:, index]) for rows in features.split(CHUNK)])
        places, known = _seen_at(channel, values, size)
        # The colours are mostly seen at the same places.
        if last is None or not torch.equal(last[0], places):
            last = places, interpolation(places, size)
        channels.append(last[1](known))
    return torch.stack(channels, 1)


def _seen_at(seen: PixelMap, values: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Places (rows, columns) and what is known there."""
    if bool((seen.last - seen.first > 0.5).any()):
        return between(seen.first, seen.last, seen.brightest, values, size)
    # Several features may show the same pixel: their mean counts.
    places, index = ((seen.first + seen.last) / 2).round(decimals=2).unique(dim=0, return_inverse=True)
    total = values.new_zeros(len(values), len(places)).index_add(1, index, values)
    return places, total / torch.bincount(index, minlength=len(places)).to(values)
