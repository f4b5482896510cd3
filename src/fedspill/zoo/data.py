"""From a name in a plan to examples; nothing is ever downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.types import Batch
from fedspill.zoo.indices import parse_indices
from fedspill.zoo.root import VARIABLE, data_root
from fedspill.zoo.sources.cifar import cifar
from fedspill.zoo.sources.folder import folder
from fedspill.zoo.sources.npz import npz
from fedspill.zoo.sources.photos import DEFAULT_SIZE, photos
from fedspill.zoo.sources.source import Source, check_pixels, check_size, pixels
from fedspill.zoo.statistics import PLAIN


@dataclass(frozen=True)
class DataPool:
    """Examples with what is known of them.

    Attributes:
        batch: float32 pixels (n, c, h, w) in [0, 1] and long labels (n,), on the CPU.
        class_names: () if the classes have none.
        num_classes: at least 1.
        name: as in the plan, with the split.
        source: where the examples come from.
        mean: of the data set per channel (or one value for all), for normalisation.
        std: likewise.
        indices: positions in the source, one per example; two pools of one `name` without a common index
            share no example.
        has_labels: False if the labels are zeros for want of any.
    """

    batch: Batch
    class_names: tuple[str, ...]
    num_classes: int
    name: str
    source: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    indices: tuple[int, ...]
    has_labels: bool = True

    def __len__(self) -> int:
        return len(self.batch)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        channels, height, width = self.batch.inputs.shape[1:]
        return channels, height, width


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


def from_tensors(
    inputs: Tensor,
    labels: Tensor | None = None,
    *,
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = PLAIN.mean,
    std: tuple[float, ...] = PLAIN.std,
    name: str = "tensors",
) -> DataPool:
    """Examples that the caller holds.

    Args:
        inputs: floats (n, c, h, w) in [0, 1], not normalised.
        labels: whole numbers (n,) from 0; None if there are none.
        class_names: one per class; () counts the classes by the highest label.
        mean: per channel (or one value for all), for normalisation.
        std: likewise.
        name: for reports.

    Raises:
        BadInput: other shapes, types or ranges.
    """
    if inputs.ndim != 4 or not inputs.is_floating_point():
        raise BadInput(f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}; floats (n, c, h, w) are needed")
    classes = torch.zeros(len(inputs), dtype=torch.long) if labels is None else _checked(labels, len(inputs))
    count = len(class_names) or (int(classes.max()) + 1 if len(classes) else 1)
    if len(classes) and int(classes.max()) >= count:
        raise BadInput(f"labels run to {int(classes.max())}, but {count} classes are named")
    batch = Batch(inputs.detach().to("cpu", torch.float32), classes)
    check_pixels(batch.inputs, "inputs")
    positions = tuple(range(len(batch)))
    return DataPool(batch, class_names, count, name, "tensors of the caller", mean, std, positions, labels is not None)


def _checked(labels: Tensor, count: int) -> Tensor:
    if labels.shape != (count,) or labels.is_floating_point() or (count and int(labels.min()) < 0):
        raise BadInput(
            f"labels of shape {tuple(labels.shape)} and {labels.dtype};"
            f" one class number from 0 for each of {count} inputs is needed"
        )
    return labels.detach().cpu().long()


def from_dataset(
    dataset: object,
    *,
    indices: str | Sequence[int] | None = None,
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = PLAIN.mean,
    std: tuple[float, ...] = PLAIN.std,
    name: str = "dataset",
) -> DataPool:
    """Examples of a map-style torch Dataset that gives (image, label).

    Images are tensors (c, h, w) in [0, 1] or of bytes, arrays (h, w, c), or PIL pictures.

    Raises:
        BadInput: no length, other items, images of different shapes, or a range that `from_tensors` refuses.
    """
    items = cast(Any, dataset)
    try:
        chosen = parse_indices(indices, len(items))
        pairs = [(_tensor(image), int(label)) for image, label in (items[k] for k in chosen)]
        inputs = torch.stack([image for image, _ in pairs])
    except BadInput:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise BadInput(f"a dataset of equally large (image, label) pairs is needed: {error}") from error
    labels = torch.tensor([label for _, label in pairs])
    pool = from_tensors(inputs, labels, class_names=class_names, mean=mean, std=std, name=name)
    return DataPool(
        *(pool.batch, class_names, pool.num_classes, name, "dataset of the caller", mean, std, tuple(chosen))
    )


def _tensor(image: object) -> Tensor:
    if isinstance(image, Tensor):
        return image.float() / 255 if image.dtype == torch.uint8 else image
    array = np.asarray(image.convert("L" if image.mode == "L" else "RGB") if isinstance(image, Image.Image) else image)
    array = array[..., None] if array.ndim == 2 else array
    return pixels(array).permute(2, 0, 1)
