"""The embedded default: colour photographs that scikit-image and scikit-learn carry; nothing is downloaded.

Each photograph has a private square and, beside it, a public strip. The two share no pixel, so that whoever
is given the public tiles holds nothing of the private ones. The files are read from the installed packages,
not through `skimage.data`, which would download what it does not find.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.source import Source, pixels, square

Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels of the photograph."""

DEFAULT_SIZE = 32
FINEST = 8
"""A photograph is cut into at most this many tiles along its shorter side."""
DULL = 0.02
"""Tiles with a standard deviation below this are left out: black sky says nothing about an attack."""


@dataclass(frozen=True)
class Photo:
    """One photograph and its two disjoint regions."""

    name: str
    origin: str
    package: str
    path: str
    private: Box
    public: Box


PHOTOS = (
    Photo(
        "astronaut",
        "NASA, public domain",
        "skimage",
        "data/astronaut.png",
        (0, 30, 384, 384),
        (384, 0, 128, 512),
    ),
    Photo("cat", "S. van der Walt, CC0", "skimage", "data/chelsea.png", (0, 60, 300, 300), (0, 360, 300, 91)),
    Photo("coffee", "R. Michetti, CC0", "skimage", "data/coffee.png", (0, 80, 400, 400), (0, 480, 400, 120)),
    Photo(
        "rocket",
        "SpaceX, public domain",
        "skimage",
        "data/rocket.jpg",
        (0, 107, 427, 427),
        (0, 534, 427, 106),
    ),
    Photo(
        "motorcycle",
        "Middlebury 2014 stereo data",
        "skimage",
        "data/motorcycle_left.png",
        (0, 150, 500, 500),
        (0, 0, 500, 150),
    ),
    Photo(
        "retina",
        "Haeggstroem 2014, CC0",
        "skimage",
        "data/retina.jpg",
        (200, 0, 1000, 1000),
        (200, 1000, 1000, 411),
    ),
    Photo(
        "tissue",
        "CMMI, no known restrictions",
        "skimage",
        "data/ihc.png",
        (0, 0, 384, 384),
        (384, 0, 128, 512),
    ),
    Photo(
        "galaxies",
        "NASA, public domain",
        "skimage",
        "data/hubble_deep_field.jpg",
        (0, 0, 700, 700),
        (0, 700, 872, 300),
    ),
    Photo(
        "pagoda",
        "danielbuechele, CC BY 2.0",
        "sklearn",
        "datasets/images/china.jpg",
        (0, 20, 427, 427),
        (0, 447, 427, 193),
    ),
    Photo(
        "flower",
        "vultilion, CC BY 2.0",
        "sklearn",
        "datasets/images/flower.jpg",
        (0, 95, 427, 427),
        (0, 522, 427, 118),
    ),
)
"""The right-hand picture of the motorcycle pair is left out: it shows what the left-hand one shows."""

DESCRIPTION = "tiles of colour photographs that scikit-image and scikit-learn carry: " + "; ".join(
    f"{photo.name} ({photo.origin})" for photo in PHOTOS
)


@lru_cache(maxsize=1)
def _photographs() -> tuple[Float[Tensor, "3 h w"], ...]:
    return tuple(_open(photo) for photo in PHOTOS)


def _open(photo: Photo) -> Float[Tensor, "3 h w"]:
    spec = find_spec(photo.package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    file = Path(folders[0]) / photo.path if folders else None
    if file is None or not file.is_file():
        raise BadInput(f"the installed {photo.package} does not carry {photo.path}; another release of it does")
    with Image.open(file) as image:
        return pixels(np.asarray(image.convert("RGB"))).permute(2, 0, 1)


def _tiles(region: Box, size: int) -> Iterator[tuple[int, list[Box]]]:
    """Per level the disjoint square tiles of a region, the whole region first, none finer than `size`."""
    top, left, height, width = region
    for level in range(1, FINEST + 1):
        side = min(height, width) // level
        if level > 1 and side < size:
            return
        corners = [(y, x) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
        yield level, [(top + y, left + x, side, side) for y, x in corners]


@lru_cache(maxsize=16)
def _order(split: str, size: int) -> tuple[tuple[int, Box], ...]:
    """Tiles level by level; inside a level the photographs take turns, so that neighbours differ.

    A tile that would follow one of its own photograph (coarse photographs run out first) is left out.
    """
    regions = [p.private if split == "private" else p.public for p in PHOTOS]
    levels: dict[int, list[tuple[int, int, Box]]] = {}
    for number, region in enumerate(regions):
        for level, boxes in _tiles(region, size):
            vivid = [box for box in boxes if _contrast(number, box) >= DULL]
            levels.setdefault(level, []).extend((turn, number, box) for turn, box in enumerate(vivid))
    order: list[tuple[int, Box]] = []
    for level in sorted(levels):
        for _, number, box in sorted(levels[level]):
            if not order or order[-1][0] != number:
                order.append((number, box))
    return tuple(order)


def _crop(number: int, box: Box) -> Float[Tensor, "3 h w"]:
    top, left, height, width = box
    return _photographs()[number][:, top : top + height, left : left + width]


def _contrast(number: int, box: Box) -> float:
    """Standard deviation, by every other pixel, which is enough to tell sky from picture."""
    return float(_crop(number, box)[:, ::2, ::2].numpy().std())


def photos(split: Literal["private", "public"], size: int) -> Source:
    """Tiles of `size` x `size`, labelled by photograph; the first ten private ones are whole pictures."""
    order = _order(split, size)

    def read(positions: list[int]) -> Tensor:
        crops = [_crop(*order[position]) for position in positions]
        return torch.cat([square(crop[None], size) for crop in crops])

    labels = torch.tensor([number for number, _ in order])
    names = tuple(photo.name for photo in PHOTOS)
    return Source("photos", DESCRIPTION, names, len(names), labels, True, read)
