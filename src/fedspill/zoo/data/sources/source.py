"""What every source offers before any example is read, and how pictures become tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec, TokenSpec
from fedspill.core.memory import free_bytes, words
from fedspill.zoo.statistics import PLAIN, Statistics

MOST_PIXELS = 2**15
"""A side."""
MOST_CLASSES = 2**21
"""Class numbers beyond belong to something else than classes, and no network would have as many logits."""
BITS, PHOTOMETRIC = 258, 262
"""Tags of TIFF."""


@dataclass(frozen=True)
class Source:
    """Examples that can be read by position.

    Attributes:
        name: as in a plan.
        description: where they come from, with licence or origin where known.
        class_names: () if the classes have none.
        num_classes: at least 1.
        labels: of all examples, classes (n,) or next tokens (n, t); zeros if the source has none.
        has_labels: False if `labels` means nothing.
        read: positions to pixels (n, c, h, w), float32 in [0, 1]; to tokens (n, t); or to rows (n, columns), float32.
        statistics: of images, mean and standard deviation per channel, for normalisation.
        spec: of sentences and tables; None for images.
        show: of sentences and tables, examples (m, ...) as text for people, one line each.
    """

    name: str
    description: str
    class_names: tuple[str, ...]
    num_classes: int
    labels: Int[Tensor, " n ..."]
    has_labels: bool
    read: Callable[[list[int]], Tensor]
    statistics: Statistics = PLAIN
    spec: TokenSpec | TableSpec | None = None
    show: Callable[[Tensor], list[str]] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def pixels(array: NDArray[Any]) -> Float[Tensor, "..."]:
    """Pixels in float32: whole numbers of 8 or 16 bits scaled to [0, 1] by their range, floats as they are.

    Raises:
        BadInput: another type.
    """
    if array.dtype == np.uint8:
        return torch.from_numpy(array.astype(np.float32)) / 255
    if array.dtype == np.uint16:
        return torch.from_numpy(array.astype(np.float32)) / 65535
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    raise BadInput(f"images of type {array.dtype} were got; uint8, uint16 or floats in [0, 1] are needed")


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has one channel."""
    return image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")


def picture(image: Image.Image, grey: bool, where: str) -> Float[Tensor, "c h w"]:
    """A picture's pixels in [0, 1], by the range that its format has; upright, as its metadata say.

    Grey of 8, 12 or 16 bits and of floats in [0, 1] is taken to the last bit, colour of 16 bits to 8, as Pillow does.

    Args:
        image: opened, of any mode.
        grey: one channel is wanted, else three.
        where: for messages.

    Raises:
        BadInput: whole numbers of 32 bits, whose range is nowhere said, or floats outside [0, 1].
    """
    upright = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        deep = _deep(image, np.asarray(upright).astype(np.float32), where)[None]
        return deep if grey else deep.expand(3, -1, -1)
    array = np.asarray(upright.convert("L" if grey else "RGB"))
    return pixels(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)


def _deep(image: Image.Image, values: NDArray[Any], where: str) -> Float[Tensor, "h w"]:
    """Grey of more than 8 bits, divided by its highest possible value."""
    tags = getattr(image, "tag_v2", {})
    bits = 16
    if image.mode == "F":
        bits = 0
    elif image.mode != "I":
        bits = int(tags.get(BITS, (16,))[0])
    elif image.format not in ("PNG", "PPM"):
        raise BadInput(f"{where} holds whole numbers of 32 bits, whose range nothing tells; 8 or 16 bits are needed")
    shares = check_pixels(torch.from_numpy(values / (2**bits - 1) if bits else values), where)
    return 1 - shares if tags.get(PHOTOMETRIC) == 0 else shares


def check_pixels(images: Tensor, where: str) -> Tensor:
    """`images` if there are any, and they are finite and inside [0, 1].

    Raises:
        BadInput: they are not; names the range.
    """
    if not images.numel():
        raise BadInput(f"{where} holds images of shape {tuple(images.shape)}, without a pixel")
    if not images.isfinite().all():
        raise BadInput(f"{where} holds NaN or infinite pixels; values in [0, 1] are needed")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise BadInput(
            f"{where} holds pixels from {low:.3g} to {high:.3g}; values in [0, 1] are needed, {_cause(low, high)}"
        )
    return images


def _cause(low: float, high: float) -> str:
    if low < 0:
        return "not normalised: normalising is the model's (`normalise` in Python, `model.mean` and `model.std`)"
    return "so divide by 255" if high <= 255 else "so divide by the largest possible value"


def check_size(size: int | None) -> None:
    """Raises BadInput unless `size` is None or a side length in pixels that some memory could hold."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MOST_PIXELS):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadInput(f"size={size!r}: a side length in pixels from 1 to {MOST_PIXELS} is needed")


def check_room(what: str, numbers: int) -> None:
    """Raises BadInput if so many float32 numbers exceed the memory of this machine."""
    needed, there = 4 * numbers, free_bytes(torch.device("cpu"))
    if needed > there:
        raise BadInput(f"{what} needs {words(needed)} of memory, this machine has {words(there)} free")


def square(images: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n c s s"]:
    """The central square, resized to `size` with antialiasing and rounded to 8 bits, as picture libraries do it."""
    height, width = images.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    images = images[..., top : top + side, left : left + side]
    if side == size:
        return images
    resized = functional.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)
    return (resized.clamp(0, 1) * 255).round() / 255
