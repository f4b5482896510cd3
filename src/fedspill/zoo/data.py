"""From a name in a plan to examples; nothing is ever downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedspill.core.errors import BadInput
from fedspill.core.types import Batch
from fedspill.zoo.indices import parse_indices
from fedspill.zoo.pool import DataPool, from_dataset, from_tensors, shared_examples
from fedspill.zoo.root import VARIABLE, data_root
from fedspill.zoo.sources.cifar import cifar
from fedspill.zoo.sources.folder import folder
from fedspill.zoo.sources.npz import npz
from fedspill.zoo.sources.photos import DEFAULT_SIZE, photos
from fedspill.zoo.sources.source import Source, check_size

__all__ = ["DataPool", "Entry", "from_dataset", "from_tensors", "listing", "load", "shared_examples"]


@dataclass(frozen=True)
class Entry:
    """One line of a listing."""

    name: str
    summary: str
    splits: tuple[str, ...]


LISTING = (
    Entry(
        "photos",
        "Embedded colour photographs, cut into tiles of any size (default 32)",
        ("private", "public"),
    ),
    Entry("cifar10", "CIFAR-10, official python folder under the data root", ("test", "train")),
    Entry("cifar100", "CIFAR-100, official python folder under the data root", ("test", "train")),
    Entry("folder:PATH", "Image files, subfolders are classes", ("all", "name of a subfolder")),
    Entry("npz:PATH", "NumPy archive: MedMNIST layout, or images and labels", ("all", "train", "val", "test")),
)


def listing() -> list[Entry]:
    """Every data name that a plan may use; the first split is the default."""
    return list(LISTING)


def load(
    name: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    indices: str | Sequence[int] | None = None,
    size: int | None = None,
) -> DataPool:
    """The examples that a plan names.

    Args:
        name: see `listing`.
        root: the user's data folder; the variable FEDSPILL_DATA stands in for it.
        split: None is the first one of the listing (for an archive without `images`: "test").
        indices: such as "0:100" or "3,7,12"; None takes all.
        size: side in pixels of square images; None keeps the data's own.

    Raises:
        BadInput: any of these cannot be used.
    """
    check_size(size)
    source, split = _open(name, root, split, size)
    chosen = parse_indices(indices, len(source))
    batch = Batch(source.read(chosen), source.labels[chosen])
    return _pool(source, batch, f"{name}/{split}", tuple(chosen))


def _open(name: str, root: str | Path | None, split: str | None, size: int | None) -> tuple[Source, str]:
    kind, _, path = name.partition(":")
    if kind in ("folder", "npz") and path:
        place = _place(path, root)
        split = split or ("all" if kind == "folder" else _default_split(place))
        return (folder if kind == "folder" else npz)(place, split, size), split
    entry = next((e for e in LISTING if e.name == name and ":" not in name), None)
    if entry is None:
        raise BadInput(f"unknown data {name!r}; there are {', '.join(e.name for e in LISTING)}")
    split = split or entry.splits[0]
    if split not in entry.splits:
        raise BadInput(f"data {name!r} has no split {split!r}; it has {', '.join(entry.splits)}")
    if name == "photos":
        return photos("private" if split == "private" else "public", size or DEFAULT_SIZE), split
    given = data_root(root)
    if given is None:
        raise BadInput(f"data {name!r} needs a folder that holds it; give `root` or set {VARIABLE}")
    return cifar(name, given, split, size), split


def _place(path: str, root: str | Path | None) -> Path:
    """As given, seen from the current folder, else from the data folder."""
    place = Path(path).expanduser()
    base = None if place.exists() else data_root(root)
    return place if base is None else base / place


def _default_split(path: Path) -> str:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "test" if "images" not in archive and "test_images" in archive else "all"
    except (OSError, ValueError, EOFError, AttributeError, TypeError):
        return "all"  # the reader tells what is wrong


def _pool(source: Source, batch: Batch, name: str, indices: tuple[int, ...]) -> DataPool:
    return DataPool(
        batch,
        source.class_names,
        source.num_classes,
        name,
        source.description,
        source.statistics.mean,
        source.statistics.std,
        indices,
        source.has_labels,
    )
