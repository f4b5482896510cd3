"""One example as people's data sets hand it out, or a stack of them: its pixels in [0, 1] and its class."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.source import is_grey, picture, pixels

IMAGE_KEYS = ("image", "img", "pixel_values", "images", "x")
LABEL_KEYS = ("label", "labels", "fine_label", "target", "targets", "y")
CHANNELS = 4
"""An axis longer than this is height or width if another one may be the channels."""
Pair = tuple[Any, Any | None]
"""An image, or several, with the label or labels that belong to it."""


def pair_of(item: object) -> Pair:
    """Image and label of one item of a data set, or of one batch: (image, label), (image,), a row by names, an image.

    Raises:
        BadInput: it is none of these.
    """
    if isinstance(item, Mapping):
        return _named(item)
    if isinstance(item, Tensor | np.ndarray | Image.Image):
        return item, None
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        return item[0], item[1] if len(item) == 2 else None
    size = f" of {len(item)}" if isinstance(item, Sequence) else ""
    raise BadInput(
        f"the data set gave a {type(item).__name__}{size}; (image, label), or a row with"
        f" {' or '.join(map(repr, IMAGE_KEYS[:3]))} and 'label', is needed"
    )


def _named(row: Mapping[Any, Any]) -> Pair:
    image = next((key for key in IMAGE_KEYS if key in row), None)
    if image is None:
        raise BadInput(
            f"a row of the data has the keys {', '.join(map(str, row))}, none of them {', '.join(IMAGE_KEYS)};"
            " of several splits give one, of other names a pair (images, labels)"
        )
    label = next((key for key in LABEL_KEYS if key in row), None)
    return row[image], None if label is None else row[label]


def one_image(image: object) -> Float[Tensor, "c h w"]:
    """An image's pixels: a picture; a tensor (c, h, w); an array (h, w, c); either (h, w), or with its axes the other
    way round where only that leaves at most 4 channels.

    Raises:
        BadInput: another shape or type.
    """
    if isinstance(image, Image.Image):
        return picture(image, is_grey(image), "a picture of the data")
    first = "channels first" if isinstance(image, Tensor) else "channels last"
    return _upright(_numbers(image), 3, first)


def many_images(images: object) -> Float[Tensor, "n c h w"]:
    """A stack's pixels: (n, c, h, w), (n, h, w), (n, h, w, c) where c is at most 4; or a list of images.

    Raises:
        BadInput: another shape or type, or images of different shapes.
    """
    if isinstance(images, list | tuple) and not all(isinstance(v, int | float | list) for v in images):
        return stacked([one_image(image) for image in images])
    return _upright(_numbers(images), 4, "channels first")


def _numbers(images: object) -> Tensor:
    """Whole numbers of 8 and 16 bits by their range; floats as they are."""
    if isinstance(images, Tensor):
        images = images.detach().cpu()
        if images.is_floating_point():
            return images.float()
        if images.dtype in (torch.uint8, torch.uint16):
            return pixels(images.numpy())
        raise BadInput(f"images of {images.dtype} were got; uint8, uint16 or floats in [0, 1] are needed")
    try:
        return pixels(np.asarray(images))
    except (TypeError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"images as a {type(images).__name__} cannot be read: {error}") from error


def _upright(images: Tensor, ndim: int, order: Literal["channels first", "channels last"]) -> Tensor:
    """Moves the channels before height and width."""
    if images.ndim == ndim - 1:
        return images.unsqueeze(-3)
    if images.ndim != ndim:
        raise BadInput(f"images of shape {tuple(images.shape)} were got; {'n, ' * (ndim - 3)}c, h, w are needed")
    first, last = images.shape[-3] <= CHANNELS, images.shape[-1] <= CHANNELS
    moved = last and not first if order == "channels first" else last or not first
    return images.movedim(-1, -3) if moved else images


def stacked(images: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
    """Images (c, h, w) of one size; grey ones among coloured ones get three equal channels.

    Raises:
        BadInput: they differ in size.
    """
    if {len(image) for image in images} == {1, 3}:
        images = [image.expand(3, -1, -1) for image in images]
    shapes = sorted({tuple(image.shape) for image in images})
    if len(shapes) != 1:
        raise BadInput(f"images of one shape are needed; these have {', '.join(map(str, shapes[:2]))}, ...")
    return torch.stack(list(images))


def one_label(label: object) -> int:
    """A class number.

    Raises:
        BadInput: no whole number.
    """
    value: object = label
    if (isinstance(label, Tensor) and label.numel() == 1) or (
        isinstance(label, np.ndarray | np.generic) and label.size == 1
    ):
        value = label.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise BadInput(f"the label {str(value)[:60]!r} is no class number; whole numbers from 0 are needed")
    return int(value)
