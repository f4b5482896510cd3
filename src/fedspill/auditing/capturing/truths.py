"""The private examples behind a captured update, from files or from the caller, as a pool to judge by."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.contents import as_tensor
from fedspill.core.files.reading import read_tensors
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.zoo.data import DataPool, from_rows, from_tensors, from_tokens, load
from fedspill.zoo.data.sources.folder import SUFFIXES

Truth = str | Path | DataPool | Batch | Tensor | NDArray[Any] | Mapping[str, Any] | Sequence[Any]
"""Where the private examples are: see `read_truth`."""
INPUTS = ("inputs", "images", "x", "data", "truth", "pixels", "tokens", "rows")
LABELS = ("labels", "y", "targets", "classes", "label", "target")


def read_truth(given: object, model: Model, labels: Tensor | None = None) -> DataPool:
    """The private examples in their order.

    Args:
        given: a path: of a file (safetensors, checkpoint or .npz) that holds `inputs` and, if known, `labels`, of a
            picture, or of a folder of pictures, in subfolders by the numbers of their classes if these are known; or a
            pair of inputs and labels, inputs alone, or a pool.
        model: what took them.
        labels: (n,), that the server was granted; they stand in for those that `given` does not tell.

    Raises:
        BadInput: it cannot be read, or is not what the model takes; or other labels were granted.
    """
    pool = given if isinstance(given, DataPool) else _pool(given, model, labels)
    if pool.input_shape != tuple(model.input.encoded_shape):
        raise BadInput(f"the truth holds inputs of {pool.input_shape}, the model takes {model.input.encoded_shape}")
    if labels is not None and pool.has_labels and not _same(labels, pool.batch.labels):
        raise BadInput(f"the labels given are {labels.tolist()}, those of the truth {pool.batch.labels.tolist()}")
    return pool


def _same(labels: Tensor, true: Tensor) -> bool:
    return labels.shape == true.shape and bool((labels.cpu().sort(0).values == true.sort(0).values).all())


def _pool(given: object, model: Model, labels: Tensor | None) -> DataPool:
    where = "the truth"
    if isinstance(given, str | Path):
        where = f"truth {str(given)!r}"
        if "\0" not in str(given) and (Path(given).is_dir() or _is_picture(Path(given))):
            return _of_pictures(Path(given), model, labels)
    inputs, told = _parts(given, where)
    return _of_tensors(inputs, labels if told is None else told, model, where)


def _parts(given: object, where: str) -> tuple[Tensor, Tensor | None]:
    """Inputs, and labels if they are told."""
    if isinstance(given, Batch):
        return given.inputs, given.labels
    if isinstance(given, str | Path):
        given = read_tensors(given)
    if isinstance(given, Mapping):
        return _by_names(given, where)
    if isinstance(given, tuple | list):
        if len(given) != 2:
            raise BadInput(f"{where} holds {len(given)} things; a pair (inputs, labels) is needed")
        return as_tensor(given[0], where), None if given[1] is None else as_tensor(given[1], where)
    if isinstance(given, Tensor) or hasattr(given, "__array__"):
        return as_tensor(given, where), None
    raise BadInput(f"{where} is a {type(given).__name__}; a pair (inputs, labels), or a path, is needed")


def _by_names(tensors: Mapping[Any, Any], where: str) -> tuple[Tensor, Tensor | None]:
    inputs, labels = (_one_of(names, tensors) for names in (INPUTS, LABELS))
    if inputs is None and len(rest := [n for n in tensors if n != labels]) == 1:
        inputs = rest[0]
    if inputs is None:
        raise BadInput(f"{where} holds {list(tensors)[:6]}; 'inputs' and, if known, 'labels' are needed")
    return as_tensor(tensors[inputs], where), None if labels is None else as_tensor(tensors[labels], where)


def _one_of(names: Sequence[str], tensors: Mapping[Any, Any]) -> str | None:
    return next((name for name in names if name in tensors), None)


def _of_tensors(inputs: Tensor, labels: Tensor | None, model: Model, where: str) -> DataPool:
    spec = model.input
    classes = None if labels is None else _classes(labels, where)
    if isinstance(spec, TokenSpec):
        return from_tokens(inputs.long(), classes, vocabulary=spec.vocabulary, name="truth")
    if isinstance(spec, TableSpec):
        return from_rows(inputs.float(), classes, spec, name="truth")
    if not isinstance(spec, ImageSpec):
        raise BadInput(f"{where}: the model takes {type(spec).__name__}; images, sentences and rows can be judged")
    return from_tensors(_pixels(inputs, spec, where), classes, mean=spec.mean, std=spec.std, name="truth")


def _classes(labels: Tensor, where: str) -> Tensor:
    """Whole numbers (n,) or (n, t), also where they are stored as floats, or (n, 1)."""
    whole = labels.detach().cpu()
    if whole.is_floating_point() and bool((whole == whole.round()).all()):
        whole = whole.long()
    if whole.is_floating_point() or whole.is_complex() or whole.ndim == 0:
        raise BadInput(
            f"{where} holds labels of {labels.dtype} and shape {tuple(labels.shape)}; class numbers are needed"
        )
    return whole.long().flatten() if whole.ndim == 2 and whole.shape[1] == 1 else whole.long()


def _pixels(inputs: Tensor, spec: ImageSpec, where: str) -> Tensor:
    """Floats (n, c, h, w) in [0, 1], of floats or bytes, with the channels first or last."""
    shape = tuple(spec.encoded_shape)
    images = inputs[None] if tuple(inputs.shape) in (shape, (*shape[1:], shape[0])) else inputs
    images = images[:, None] if images.ndim == 3 and shape[0] == 1 else images
    if images.ndim == 4 and tuple(images.shape[1:]) != shape and tuple(images.shape[1:]) == (*shape[1:], shape[0]):
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise BadInput(f"{where} holds images of {inputs.dtype}; bytes, or floats in [0, 1], are needed")
    return images.float()


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _loaded(path: Path) -> DataPool:
    """The pictures of a folder, or one alone."""
    if path.is_dir():
        return load(f"folder:{path}")
    beside = sorted(p for p in path.parent.iterdir() if _is_picture(p))
    return load(f"folder:{path.parent}", indices=str(beside.index(path)))


def _of_pictures(folder: Path, model: Model, labels: Tensor | None) -> DataPool:
    """A picture, or those of a folder; subfolders tell their classes if they are named by class numbers."""
    if not isinstance(model.input, ImageSpec):
        raise BadInput(f"truth {str(folder)!r} holds pictures; the model takes none")
    pool = _loaded(folder)
    if not pool.class_names:
        if labels is None:
            return pool
        return from_tensors(pool.batch.inputs, labels, mean=pool.mean, std=pool.std, name="truth")
    if not all(name.isdecimal() for name in pool.class_names):
        raise BadInput(
            f"truth {str(folder)!r} has class folders {list(pool.class_names)[:4]}; name them by the numbers of their"
            " classes, such as 3, or put the pictures into the folder itself"
        )
    numbers = torch.tensor([int(name) for name in pool.class_names])
    known = Batch(pool.batch.inputs, numbers[pool.batch.labels])
    return replace(pool, batch=known, class_names=(), num_classes=int(numbers.max()) + 1)
