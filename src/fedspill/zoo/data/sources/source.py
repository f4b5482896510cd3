"""What every source offers before any example is read, and how pictures become tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec, TokenSpec
from fedspill.zoo.statistics import PLAIN, Statistics


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


def check_pixels(images: Tensor, where: str) -> Tensor:
    """`images` if they are finite and inside [0, 1].

    Raises:
        BadInput: they are not; names the range.
    """
    if not images.isfinite().all():
        raise BadInput(f"{where} holds NaN or infinite pixels; values in [0, 1] are needed")
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise BadInput(f"{where} holds pixels from {low:.3g} to {high:.3g}; values in [0, 1] are needed")
    return images


def check_size(size: int | None) -> None:
    """Raises BadInput unless `size` is None or a side length in pixels."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise BadInput(f"size={size!r}: a side length in pixels from 1 is needed")


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
