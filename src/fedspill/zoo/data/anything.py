"""What a caller holds, as a pool: tensors, arrays, pictures, lists of them, torch's and Hugging Face's data sets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, default_collate

from fedspill.core.errors import BadInput, FedspillError
from fedspill.zoo.data.indices import parse_indices
from fedspill.zoo.data.items import LABEL_KEYS, many_images, one_image, one_label, pair_of, stacked
from fedspill.zoo.data.pool import DataPool, chosen_from, from_tensors
from fedspill.zoo.statistics import PLAIN

NEEDED = "a pair (images, labels), a Dataset, a DataLoader, or a list of (image, label)"
MOST = 2**20
"""Examples that are taken from what does not say how many it holds."""


def pool_of(data: object, indices: str | Sequence[int] | None = None) -> DataPool:
    """Examples that the caller holds, in any of these forms.

    - a `DataPool`, which is kept as it is, but for `indices`;
    - a pair (images, labels), or a mapping with such columns: tensors, arrays or lists; images (n, c, h, w), (n, h, w)
      or (n, h, w, c); labels None if there are none;
    - a map-style data set, or a list, of items: (image, label), rows by name (Hugging Face), or bare images; an image
      is a tensor, an array or a picture;
    - a DataLoader, or an IterableDataset.

    Args:
        data: images of 8 or 16 bits, or of floats in [0, 1], not normalised.
        indices: which examples, see `load`; None takes all.

    Raises:
        BadInput: another form, other shapes, types or ranges, or a data set that gives another picture each time.
    """
    if isinstance(data, DataPool):
        return chosen_from(data, indices)
    if isinstance(data, DataLoader):
        return _of_loader(data, indices)
    if isinstance(data, IterableDataset):
        return _of_items(_listed(data), indices)
    if isinstance(data, Mapping):
        return _of_pair(*pair_of(data), indices)
    if isinstance(data, tuple | list):
        return _of_items(data, indices) if _are_items(data) else _of_pair(*_both(data), indices)
    if isinstance(data, str | bytes | Tensor | np.ndarray | Image.Image) or not _indexable(data):
        raise BadInput(f"data is a {type(data).__name__}; {NEEDED} is needed")
    return from_dataset(data, indices=indices)


def _indexable(data: object) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _are_items(data: Sequence[Any]) -> bool:
    """Whether a list holds examples, not images and labels."""
    first = data[0] if data else None
    if isinstance(first, tuple | list):
        return len(data) != 2 or (len(first) == 2 and _is_label(first[1]) and not _is_label(first[0]))
    if isinstance(first, Tensor | np.ndarray):
        return len(data) != 2 and first.ndim in (2, 3)
    return isinstance(first, Mapping | Image.Image)


def _is_label(value: object) -> bool:
    return isinstance(value, int | np.integer) or (isinstance(value, Tensor | np.ndarray) and value.ndim == 0)


def _both(data: Sequence[Any]) -> tuple[Any, Any]:
    if len(data) != 2:
        raise BadInput(f"data holds {len(data)} things; {NEEDED} is needed")
    return data[0], data[1]


def _of_pair(images: object, labels: object, indices: str | Sequence[int] | None) -> DataPool:
    inputs = many_images(images)
    return chosen_from(from_tensors(inputs, None if labels is None else _labels(labels)), indices)


def _labels(labels: object) -> Tensor:
    """Class numbers (n,) of a tensor, an array (n,) or (n, 1), or a list."""
    if isinstance(labels, list | tuple):
        return torch.tensor([one_label(label) for label in labels], dtype=torch.long)
    found = labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels, dtype=_whole(labels)))
    return found[:, 0] if found.ndim == 2 and found.shape[1] == 1 else found


def _whole(labels: object) -> Any:
    kind = np.asarray(labels).dtype
    if kind.kind not in "iuf":
        raise BadInput(f"labels of type {kind} were got; whole numbers from 0 are needed")
    return np.int64 if kind.kind in "iu" else kind


def from_dataset(
    dataset: object,
    *,
    indices: str | Sequence[int] | None = None,
    class_names: tuple[str, ...] = (),
    mean: tuple[float, ...] = PLAIN.mean,
    std: tuple[float, ...] = PLAIN.std,
    name: str = "dataset",
) -> DataPool:
    """Examples of a map-style data set, torch's or Hugging Face's; see `pool_of` for what its items may be.

    Names of classes are those of the data set (`classes`, or Hugging Face's `features`) where none are given. The other
    arguments are those of `load` and `from_tensors`.

    Raises:
        BadInput: no length, other items, images of different shapes or of a range that `from_tensors` refuses, or
            another picture each time that one is asked for.
    """
    pool = _of_items(dataset, indices, class_names or _class_names(dataset))
    return replace(pool, mean=mean, std=std, name=name)


def _of_items(items: object, indices: str | Sequence[int] | None, names: tuple[str, ...] = ()) -> DataPool:
    try:
        chosen, pairs = _read(cast(Any, items), indices)
    except FedspillError:
        raise
    except Exception as error:  # the data set is the user's: anything may go wrong in it
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(f"the data cannot be read ({type(error).__name__}: {reason}); {NEEDED} is needed") from error
    given = [label for _, label in pairs if label is not None]
    if len(given) not in (0, len(pairs)):
        raise BadInput(f"{len(given)} of {len(pairs)} examples have a label; all or none are needed")
    labels = torch.tensor(given, dtype=torch.long) if given else None
    names = names if given and max(given) < len(names) else ()
    pool = from_tensors(stacked([image for image, _ in pairs]), labels, class_names=names, name="dataset")
    return replace(pool, source="dataset of the caller", indices=tuple(chosen))


def _read(items: Any, indices: str | Sequence[int] | None) -> tuple[list[int], list[tuple[Tensor, int | None]]]:
    chosen = parse_indices(indices, len(items))
    pairs = [_example(items[k]) for k in chosen]
    again, _ = _example(items[chosen[0]])
    if not torch.equal(again.nan_to_num(), pairs[0][0].nan_to_num()):
        raise BadInput(
            "the data set gives another picture each time that one is asked for; leave its augmentation to the client"
        )
    return chosen, pairs


def _example(item: object) -> tuple[Tensor, int | None]:
    image, label = pair_of(item)
    return one_image(image), None if label is None else one_label(label)


def _class_names(dataset: object) -> tuple[str, ...]:
    """What torchvision's data sets call `classes`, and Hugging Face's `features[...].names`; () if nothing tells."""
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    label = next((features[k] for k in LABEL_KEYS if k in features), None) if isinstance(features, Mapping) else None
    names = getattr(dataset, "classes", None) or getattr(label, "names", None)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def _of_loader(loader: DataLoader[Any], indices: str | Sequence[int] | None) -> DataPool:
    """Through the data set itself, if the loader gives all of it and as it is; else what the loader gives."""
    if isinstance(loader.dataset, IterableDataset) or not _is_plain(loader):
        batches = _listed(loader)
        if loader.batch_size is None and loader.batch_sampler is None:
            return _of_items(batches, indices)
        return _of_batches([pair_of(batch) for batch in batches], indices)
    return from_dataset(loader.dataset, indices=indices)


def _is_plain(loader: DataLoader[Any]) -> bool:
    sampler = cast(Any, loader.sampler)
    whole = isinstance(sampler, SequentialSampler) or (
        isinstance(sampler, RandomSampler) and not sampler.replacement and sampler.num_samples == len(sampler)
    )
    whole = whole and len(sampler) == len(cast(Any, loader.dataset)) and type(loader) is DataLoader
    return whole and loader.batch_size is not None and loader.collate_fn is default_collate and not loader.drop_last


def _of_batches(batches: Sequence[tuple[Any, Any]], indices: str | Sequence[int] | None) -> DataPool:
    if not batches:
        raise BadInput("the data loader gives no batch")
    images = [many_images(images) for images, _ in batches]
    if len({tuple(stack.shape[1:]) for stack in images}) > 1:
        raise BadInput("the data loader gives images of different shapes")
    labels = [_labels(labels) for _, labels in batches if labels is not None]
    if len(labels) not in (0, len(batches)):
        raise BadInput("the data loader gives labels with some batches only")
    pool = from_tensors(torch.cat(images), torch.cat(labels) if labels else None, name="data loader")
    return chosen_from(replace(pool, source="data loader of the caller"), indices)


def _listed(source: Iterable[Any]) -> list[Any]:
    """All that it gives, if that comes to an end."""
    items: Iterator[Any] = iter(source)
    try:
        held = list(islice(items, MOST + 1))
    except Exception as error:  # as above
        reason = (str(error).strip().splitlines() or [""])[0]
        raise BadInput(f"the data cannot be read ({type(error).__name__}: {reason})") from error
    if len(held) > MOST:
        raise BadInput(f"the data gives more than {MOST} items; a Dataset with a length is needed")
    return held
