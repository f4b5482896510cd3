"""CIFAR-10 and CIFAR-100 from the official "python version" folders.

These official files are pickles. They are the only ones that fedspill reads, and not with `pickle.load`: an
unpickler that can rebuild containers, numbers, strings and plain NumPy arrays, and refuses every other name,
so that a manipulated file cannot run code.
"""

import pickle  # noqa: TID251 - restricted below; the official CIFAR files have no other format
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.source import Source, pixels, square
from fedspill.zoo.statistics import CIFAR10, CIFAR100, Statistics


@dataclass(frozen=True)
class _Layout:
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    names: str
    labels: str
    statistics: Statistics


LAYOUTS = {
    "cifar10": _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{k}" for k in range(1, 6)),
        ("test_batch",),
        "batches.meta",
        "label_names",
        "labels",
        CIFAR10,
    ),
    "cifar100": _Layout("cifar-100-python", ("train",), ("test",), "meta", "fine_label_names", "fine_labels", CIFAR100),
}


def _empty_array(kind: object, shape: object, code: object) -> NDArray[Any]:
    """Stands in for NumPy's `_reconstruct`: always an empty plain array, whatever the file asks for."""
    return np.empty(0, np.uint8)


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for `_codecs.encode`, by which Python 3 writes bytes in protocol 2; Latin-1 only."""
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise BadInput(
                f"it asks for {module_name}.{global_name}, which no official CIFAR file does; nothing was run"
            ) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = _Restricted(file, encoding="latin1").load()
    except FileNotFoundError as error:
        raise BadInput(f"{str(path)!r} does not exist; the official python version of CIFAR is needed") from error
    except BadInput as error:
        raise BadInput(f"{str(path)!r} refused: {error}") from error
    except Exception as error:  # a broken pickle fails in any way
        raise BadInput(
            f"{str(path)!r} is no official CIFAR file: {(str(error).splitlines() or [''])[0][:120]}"
        ) from error
    if not isinstance(content, dict):
        raise BadInput(f"{str(path)!r} is no official CIFAR file: it holds a {type(content).__name__}")
    return content


def _folder(layout: _Layout, root: Path) -> Path:
    for folder in (root / layout.folder, root):
        if (folder / layout.meta).is_file():
            return folder
    raise BadInput(f"no folder {layout.folder} in {str(root)!r}; fedspill does not download data, unpack it there")


def _batch(path: Path, layout: _Layout) -> tuple[NDArray[Any], list[int]]:
    content = _read(path)
    data, labels = content.get("data"), content.get(layout.labels)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise BadInput(f"{str(path)!r} is no official CIFAR file: `data` of shape (n, 3072) uint8 is needed")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or not all(type(k) is int for k in labels)
        or not labels
    ):
        raise BadInput(f"{str(path)!r} is no official CIFAR file: a list {layout.labels!r}, one per image, is needed")
    return data, labels


def cifar(name: str, root: Path, split: str, size: int | None) -> Source:
    """CIFAR images; 32x32 unless `size` asks for others.

    Args:
        name: "cifar10" or "cifar100".
        root: the folder with `cifar-10-batches-py` (`cifar-100-python`) in it, or that folder itself.
        split: "test" or "train".
        size: side in pixels.

    Raises:
        BadInput: files are missing, broken, or hold more than arrays and lists.
    """
    layout = LAYOUTS[name]
    folder = _folder(layout, root)
    listed = _read(folder / layout.meta).get(layout.names, ())
    names = tuple(str(n) for n in listed) if isinstance(listed, list | tuple) else ()
    batches = [_batch(folder / file, layout) for file in (layout.test if split == "test" else layout.train)]
    data = np.concatenate([images for images, _ in batches]).reshape(-1, 3, 32, 32)
    numbers = [label for _, labels in batches for label in labels]
    if not 0 <= min(numbers) <= max(numbers) < len(names):
        raise BadInput(f"{str(folder)!r}: labels run to {max(numbers)}, {layout.meta} names {len(names)} classes")
    labels = torch.tensor(numbers)

    def read(positions: list[int]) -> Tensor:
        images = pixels(data[positions])
        return images if size is None else square(images, size)

    description = f"{name} {split} images (Krizhevsky 2009), official files"
    return Source(name, description, names, len(names), labels, True, read, layout.statistics)
