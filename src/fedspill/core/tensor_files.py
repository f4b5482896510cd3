"""Tensors in files, and digests. Nothing is ever unpickled; every file is written whole or not at all."""

import hashlib
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Params

NESTS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts keep the weights among other things."""


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a safetensors file, or of a checkpoint that `weights_only=True` loads; on the CPU.

    A nested {"state_dict": ...} is unwrapped, a prefix "module." that all names share is dropped.

    Raises:
        BadInput: no such file, a broken or unsafe one, no mapping of names to tensors, or non-finite values.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"weights file {str(path)!r} does not exist")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    for name, value in tensors.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise BadInput(f"{str(path)!r}: {name!r} holds NaN or infinite values; finite numbers are needed")
    return tensors


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {_line(error)}") from error


def _checkpoint(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the reader trips over, the file is of no use
        raise BadInput(
            f"{str(path)!r} cannot be read as tensors only (weights_only=True), and fedspill never unpickles:"
            f" {_line(error)}; save a state_dict, or safetensors"
        ) from error
    for key in NESTS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise BadInput(f"{str(path)!r} holds {_kind(content)}; a mapping of names to tensors is needed")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise BadInput(f"{str(path)!r}: {name!r} is a {type(value).__name__}; only named tensors are accepted")
    return {name: value.detach() for name, value in content.items()}


def _kind(content: Any) -> str:
    return "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"


def _line(error: Exception) -> str:
    """The first line of an error, cut to a readable length."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a safetensors file says of itself; {} for other files.

    Raises:
        BadInput: a broken safetensors file.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(f"{str(path)!r} is no whole safetensors file: {_line(error)}") from error


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
    """`model` with the parameters and buffers in `tensors`, which is a state dict.

    Buffers that a state dict need not hold (batch counters, non-persistent ones) keep the model's values.

    Raises:
        BadInput: names or shapes differ, or a value is not finite; the message names `source`.
    """
    state = model.module.state_dict()
    params = {k: v for k, v in tensors.items() if k in model.params or k not in state}
    optional = {k: v for k, v in model.buffers.items() if k not in state or k.endswith("num_batches_tracked")}
    buffers = {**optional, **{k: v for k, v in tensors.items() if k in model.buffers}}
    try:
        return model.with_params(params, buffers)
    except BadInput as error:
        raise BadInput(f"{source}: {error}") from error
