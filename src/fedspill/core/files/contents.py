"""Python objects, nested or in a list, to tensors by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput

BORDER = " > "
"""Between the names of nested mappings, so that a nest is told from a module."""
MOST_DEEP, MOST_NODES = 16, 1_000_000
BESIDE = ("_extra_state", "num_examples", "num_samples", "epoch", "step", "round")
"""Keys beside tensors whose values are none."""


def named_tensors(content: Any, where: str) -> dict[str, Tensor]:
    """The tensors of a mapping, a list, or an object of Flower's, by name; those of a list are "arr_0", "arr_1", ...

    Args:
        content: a mapping of names to tensors, arrays or further mappings; a sequence of tensors or arrays; one
            tensor (all values in a row); or an object with `to_torch_state_dict` or `state_dict`.
        where: for messages.

    Raises:
        BadInput: something else, nothing, or something else among the tensors.
    """
    content = _opened(content)
    if _is_array(content):
        content = [content]
    if isinstance(content, Sequence) and not isinstance(content, str | bytes) and content and _are_arrays(content):
        return {f"arr_{k}": as_tensor(value, f"{where}: array {k}") for k, value in enumerate(content)}
    if not isinstance(content, Mapping) or not content:
        kind = "nothing" if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise BadInput(f"{where} holds {kind}; a mapping of names to tensors, or a list of them, is needed")
    return _flattened(content, where)


def _opened(content: Any) -> Any:
    """Flower's `ArrayRecord` and a module as the state dicts that they are."""
    for method in ("to_torch_state_dict", "state_dict"):
        if not isinstance(content, Mapping | Tensor) and callable(getattr(content, method, None)):
            return getattr(content, method)()
    return content


def _are_arrays(values: Sequence[Any]) -> bool:
    return all(_is_array(value) for value in values)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray) or (not isinstance(value, Mapping) and hasattr(value, "numpy"))


def _flattened(content: Mapping[Any, Any], where: str) -> dict[str, Tensor]:
    """Nested mappings as one; what is no tensor is passed over where a mapping holds no tensor beside it."""
    found, waiting, seen = dict[str, Tensor](), [("", content, 0)], 0
    while waiting:
        prefix, mapping, depth = waiting.pop()
        seen += len(mapping)
        if depth > MOST_DEEP or seen > MOST_NODES:
            raise BadInput(f"{where} is nested more than {MOST_DEEP} deep, or without end; a state dict is needed")
        holds = any(_is_array(value) for value in mapping.values())
        for key, value in mapping.items():
            name = f"{prefix}{key}"
            if isinstance(value, Mapping):
                waiting.append((f"{name}{BORDER}", value, depth + 1))
            elif _is_array(value):
                found[name] = as_tensor(value, f"{where}: {name!r}")
            elif holds and str(key).rpartition(".")[2] not in BESIDE:
                raise BadInput(f"{where}: {name!r} is a {type(value).__name__}; only named tensors are accepted")
    if not found:
        raise BadInput(f"{where} holds no tensor; only named tensors are accepted")
    return found


def as_tensor(value: Any, where: str) -> Tensor:
    """A tensor of a tensor, an array, or what has `numpy()`.

    Raises:
        BadInput: objects, text or records, which hold no numbers.
    """
    if isinstance(value, Tensor):
        return value.detach()
    array: NDArray[Any] = value if isinstance(value, np.ndarray) else np.asarray(value.numpy())
    return from_array(array, where)


def from_array(array: NDArray[Any], where: str) -> Tensor:
    """A tensor of an array of numbers, of any byte order; two raw bytes are bfloat16, which NumPy cannot name.

    Raises:
        BadInput: objects, text or records, which hold no numbers.
    """
    if array.dtype.kind == "V" and array.dtype.itemsize == 2 and array.dtype.names is None:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    if array.dtype.kind not in "fiubc":
        raise BadInput(f"{where} holds {_words(array.dtype)}; numbers are needed")
    plain = array.astype(_plain(array.dtype), copy=True, order="C")
    return torch.from_numpy(plain).reshape(array.shape)


def _words(dtype: np.dtype[Any]) -> str:
    kinds = {"O": "pickled Python objects, which are never unpickled", "U": "text", "S": "text", "V": "raw bytes"}
    return kinds.get(dtype.kind, f"values of type {dtype}")


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type of the same numbers that PyTorch has, in this machine's byte order."""
    if dtype.kind == "u" and dtype.itemsize > 1:
        return np.dtype(np.int64)
    if dtype.kind == "f" and dtype.itemsize > 8:
        return np.dtype(np.float64)
    if dtype.kind == "c" and dtype.itemsize > 16:
        return np.dtype(np.complex128)
    return dtype.newbyteorder("=")
