"""From a name in a plan to examples; nothing is ever downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from fedspill.core.errors import BadInput
from fedspill.core.types import Batch
from fedspill.zoo.data.factory import from_factory, is_factory
from fedspill.zoo.data.indices import parse_indices
from fedspill.zoo.data.pool import DataPool
from fedspill.zoo.data.sources import tables, text
from fedspill.zoo.data.sources.cifar import cifar
from fedspill.zoo.data.sources.folder import folder
from fedspill.zoo.data.sources.npz import npz
from fedspill.zoo.data.sources.photos import DEFAULT_SIZE, photos
from fedspill.zoo.data.sources.source import Source, check_room, check_size
from fedspill.zoo.data.sources.tokenizer import BYTES, open_tokenizer
from fedspill.zoo.root import VARIABLE, data_root, located


@dataclass(frozen=True)
class Entry:
    """One line of a listing.

    Attributes:
        splits: the first one is the default.
        keys: what else may be set.
    """

    name: str
    summary: str
    splits: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Keys:
    """What only some sources take; None takes a source's default.

    Attributes:
        size: of images: side in pixels; the default keeps the data's own.
        length: of sentences: tokens each.
        tokenizer: of sentences, see `open_tokenizer`.
        label: of tables in files: the column to predict.
    """

    size: int | None = None
    length: int | None = None
    tokenizer: str | None = None
    label: str | None = None


IMAGES, SENTENCES = ("size",), ("length", "tokenizer")
HALVES = ("private", "public")

OWN = "package.module:factory"

LISTING = (
    Entry("photos", "Embedded colour photographs, cut into tiles of any size (default 32)", HALVES, IMAGES),
    Entry("cifar10", "CIFAR-10, official python folder under the data root", ("test", "train"), IMAGES),
    Entry("cifar100", "CIFAR-100, official python folder under the data root", ("test", "train"), IMAGES),
    Entry("folder:PATH", "Image files, subfolders are classes", ("all", "name of a subfolder"), IMAGES),
    Entry(
        "npz:PATH",
        "NumPy archive: MedMNIST layout, or images and labels",
        ("all", "train", "val", "test"),
        IMAGES,
    ),
    Entry("sentences", "Embedded sentences: what scikit-learn says of its data sets", HALVES, SENTENCES),
    Entry("text:PATH", "Text file (UTF-8), cut into sentences of equal length", ("all",), SENTENCES),
    *(Entry(name, f"Embedded table {name!r} of scikit-learn", HALVES, ()) for name in tables.EMBEDDED),
    Entry("adult", "Adult census table, tabular/adult.* under the data root", ("test", "train"), ()),
    Entry(OWN, "What your own factory returns: a Dataset, a DataLoader, a pair of arrays, ...", ("its own",), ()),
    Entry("csv:PATH", "CSV file with a header line; the last column is the label", ("all",), ("label",)),
)


def listing() -> list[Entry]:
    """Every data name that a plan may use; the first split is the default."""
    return list(LISTING)


def takes(name: str) -> tuple[str, ...]:
    """Which of the `Keys` a source takes.

    Raises:
        BadInput: there is no such source.
    """
    return _entry(name).keys


def load(
    name: str,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    indices: str | Sequence[int] | None = None,
    size: int | None = None,
    length: int | None = None,
    tokenizer: str | None = None,
    label: str | None = None,
) -> DataPool:
    """The examples that a plan names.

    Args:
        name: see `listing`.
        root: the user's data folder; the variable FEDSPILL_DATA stands in for it.
        split: None is the first one of the listing (for an archive without `images`: "test").
        indices: such as "0:100" or "3,7,12"; None takes all.
        size: see `Keys`, likewise `length`, `tokenizer` and `label`.

    Raises:
        BadInput: any of these cannot be used.
    """
    keys = Keys(size, length, tokenizer, label)
    _check_keys(name, keys)
    if _entry(name).name == OWN:
        return from_factory(name, split, indices)
    source, split = _open(name, root, split, keys)
    chosen = parse_indices(indices, len(source))
    if size is not None:
        check_room(f"data {name!r}: {len(chosen)} images of size={size}", 3 * len(chosen) * size * size)
    batch = Batch(source.read(chosen), source.labels[chosen])
    return _pool(source, batch, f"{name}/{split}", tuple(chosen))


def _entry(name: str) -> Entry:
    kind, _, path = name.partition(":")
    entry = next((e for e in LISTING if e.name == (f"{kind}:PATH" if path else name) and path != "PATH"), None)
    if entry is None and is_factory(name):
        entry = next(e for e in LISTING if e.name == OWN)
    if entry is None or name.endswith(":PATH"):
        raise BadInput(f"unknown data {name!r}; there are {', '.join(e.name for e in LISTING)}")
    return entry


def _check_keys(name: str, keys: Keys) -> None:
    taken = _entry(name).keys
    for field in fields(keys):
        if getattr(keys, field.name) is not None and field.name not in taken:
            there = f"it takes {', '.join(taken)}" if taken else "it takes none of size, length, tokenizer, label"
            raise BadInput(f"data {name!r} takes no {field.name!r}; {there}")
    check_size(keys.size)
    if keys.length is not None and keys.length < 1:
        raise BadInput(f"length={keys.length}: at least 1 token a sentence is needed")


def _open(name: str, root: str | Path | None, split: str | None, keys: Keys) -> tuple[Source, str]:
    entry, (kind, _, path) = _entry(name), name.partition(":")
    if kind in ("folder", "npz"):
        place = located(path, root)
        split = split or ("all" if kind == "folder" else _default_split(place))
        return (folder if kind == "folder" else npz)(place, split, keys.size), split
    split = split or entry.splits[0]
    if split not in entry.splits:
        raise BadInput(f"data {name!r} has no split {split!r}; it has {', '.join(entry.splits)}")
    if kind == "csv":
        return tables.csv_table(located(path, root), keys.label), split
    if kind in ("text", "sentences"):
        length, tokenizer = keys.length or text.DEFAULT_LENGTH, open_tokenizer(keys.tokenizer or BYTES, root)
        if kind == "text":
            return text.text(located(path, root), length, tokenizer), split
        return text.sentences(_half(split), length, tokenizer), split
    if name == "photos":
        return photos(_half(split), keys.size or DEFAULT_SIZE), split
    if name in tables.EMBEDDED:
        return tables.embedded(name, _half(split)), split
    given = data_root(root)
    if given is None:
        raise BadInput(f"data {name!r} needs a folder that holds it; give `root` or set {VARIABLE}")
    return tables.adult(given, split) if name == "adult" else cifar(name, given, split, keys.size), split


def _half(split: str) -> Literal["private", "public"]:
    return "private" if split == "private" else "public"


def _default_split(path: Path) -> str:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return "test" if "images" not in archive and "test_images" in archive else "all"
    except Exception:  # as in the reader
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
        source.spec,
        source.show,
    )
