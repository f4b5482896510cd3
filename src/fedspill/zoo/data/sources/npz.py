"""NumPy archives: MedMNIST's layout, or plain `images` and `labels`."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput, few
from fedspill.zoo.data.sources.source import MOST_CLASSES, Source, check_pixels, pixels, square

Array = NDArray[Any]
NAME_KEYS = ("label_names", "class_names")


def _keys(split: str) -> tuple[str, str]:
    return ("images", "labels") if split == "all" else (f"{split}_images", f"{split}_labels")


def _arrays(path: Path, split: str) -> tuple[Array, Array | None, tuple[str, ...]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            have = list(archive)
            images, labels = _keys(split)
            if images not in have:
                raise BadInput(f"{str(path)!r} has no array {images!r} for split {split!r}; it has {few(have, 8)}")
            names = next((tuple(map(str, archive[k])) for k in NAME_KEYS if k in have), ())
            return _array(archive[images]), _array(archive[labels]) if labels in have else None, names
    except FileNotFoundError as error:
        raise BadInput(f"archive {str(path)!r} does not exist") from error
    except BadInput:
        raise
    except Exception as error:  # a broken, encrypted or oddly packed archive fails in any way
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = "it holds pickled objects, which are never read" if "allow_pickle" in reason else reason
        raise BadInput(f"{str(path)!r} is no .npz archive of plain arrays: {reason}") from error


def _array(member: object) -> Array:
    if not isinstance(member, np.ndarray):
        raise ValueError("a member is no array")
    return member


def _channels_first(images: Array, path: Path) -> Array:
    """(n, h, w), (n, h, w, c) or (n, c, h, w) to (n, c, h, w), with 1 or 3 channels."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return images.transpose(0, 3, 1, 2)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        return images
    raise BadInput(f"{str(path)!r}: images have shape {images.shape}; (n, h, w) or (n, h, w, 1 or 3) is needed")


def _classes(labels: Array | None, count: int, path: Path) -> Int[Tensor, " n"]:
    if labels is None:
        return torch.zeros(count, dtype=torch.long)
    flat = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if (
        flat.shape != (count,)
        or flat.dtype.kind not in "iu"
        or (count and not 0 <= int(flat.min()) <= int(flat.max()) < MOST_CLASSES)
    ):
        raise BadInput(
            f"{str(path)!r}: labels have shape {labels.shape} and type {labels.dtype};"
            f" one class number from 0, below {MOST_CLASSES}, for each of the {count} images is needed"
        )
    return torch.from_numpy(flat.astype(np.int64))


def npz(path: Path, split: str, size: int | None) -> Source:
    """Images of an archive: `train_images`, `train_labels`, ... (MedMNIST); `images`, `labels` (split "all").

    Raises:
        BadInput: no such file or split, pickled content, or arrays of other shapes, types or ranges.
    """
    raw, raw_labels, names = _arrays(path, split)
    images, labels = _channels_first(raw, path), _classes(raw_labels, len(raw), path)
    top = int(labels.max()) + 1 if len(labels) else 0
    if names and top > len(names):
        raise BadInput(f"{str(path)!r}: labels run to {top - 1}, but {len(names)} classes are named")

    def read(positions: list[int]) -> Float[Tensor, "n c h w"]:
        chosen = check_pixels(pixels(images[positions]), str(path))
        return chosen if size is None else square(chosen, size)

    count = len(names) or max(top, 1)
    return Source(f"npz:{path}", f"archive {path}", names, count, labels, raw_labels is not None, read)
