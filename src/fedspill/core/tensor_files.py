"""Tensors in files, and digests. Nothing is ever unpickled; every file is written whole or not at all."""

import hashlib
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.checkpoints import read_metadata as read_metadata
from fedspill.core.files.fitting import check_complete, fitted
from fedspill.core.files.reading import read_tensors as read_tensors
from fedspill.core.model import Model
from fedspill.core.types import Params


def partial_of(path: Path) -> Path:
    """Where `whole_file` writes until the file is whole; a kill leaves it."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A path to write to, which takes the place of `path` when the block ends: no reader or kill meets half a file.

    Missing folders are made; a block that fails leaves the old file, and nothing beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_of(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes bytes, or text as UTF-8, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_tensors(path: Path, tensors: Params, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file of tensors on any device, with what it says of itself, whole or not at all."""
    plain = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    write_whole(path, save(plain, None if metadata is None else dict(metadata)))


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes what `torch.load(weights_only=True)` reads back, whole or not at all."""
    with whole_file(path) as partial:
        torch.save(dict(state), partial)


def sha256(*contents: str | bytes | Path | Tensor | Params) -> str:
    """Hex digest of contents one after the other.

    Text counts as UTF-8, a path as the bytes of its file, a tensor as its values, and named tensors as names and
    values in the order of names. Shapes and dtypes do not count.
    """
    digest = hashlib.sha256()
    for content in contents:
        for piece in _bytes_of(content):
            digest.update(piece)
    return digest.hexdigest()


def _bytes_of(content: str | bytes | Path | Tensor | Params) -> Iterator[bytes]:
    if isinstance(content, Mapping):
        for name in sorted(content):
            yield name.encode()
            yield from _bytes_of(content[name])
    elif isinstance(content, Tensor):
        # As bytes before NumPy, which has no bfloat16.
        yield content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(content, Path):
        yield content.read_bytes()
    else:
        yield content.encode() if isinstance(content, str) else content


def with_weights(model: Model, tensors: Params, source: str) -> Model:
    """`model` with the parameters and buffers in `tensors`, which is what a file holds (`fedspill.core.files`).

    Buffers that a state dict need not hold (batch counters, non-persistent ones) keep the model's values.

    Raises:
        BadInput: names or shapes differ, or a value is not finite; the message names `source`.
    """
    try:
        found = fitted(tensors, model, "parameter")
        if found.rivals:
            warnings.warn(f"{source} holds weights under {list(found.rivals)} too, which were not taken", stacklevel=2)
        check_complete(found.params, model, list(tensors), "parameter")
        state = model.module.state_dict()
        optional = {k: v for k, v in model.buffers.items() if k not in state or k.endswith("num_batches_tracked")}
        return model.with_params(found.params, {**optional, **found.buffers})
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
