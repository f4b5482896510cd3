"""Tensors in files: weights and updates. Nothing is ever unpickled; a file is written whole or not at all."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
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
    found = _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
    if found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    for name, value in found.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise BadInput(f"{str(path)!r}: {name!r} holds NaN or infinite values; finite numbers are needed")
    return found


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


def write_tensors(path: str | Path, tensors: Params, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file whole or not at all (a reader never sees half of it)."""
    path = Path(path)
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, dict(metadata or {}))
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def sha256(content: str | Path | Params) -> str:
    """Hex digest of a file's bytes, or of tensors: names, dtypes, shapes and values in the order of names."""
    if isinstance(content, (str, Path)):
        return hashlib.sha256(Path(content).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(content):
        value = content[name].detach().cpu().contiguous()
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


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


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
