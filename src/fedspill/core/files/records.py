"""Flower's `ArrayRecord` as it is serialised: protobuf, of which four kinds of field are read; flwr is not needed.

Message ArrayRecord { repeated Item items = 1; } Item { string key = 1; Array value = 2; }
Array { string dtype = 1; repeated int32 shape = 2; string stype = 3; bytes data = 4; } with data a `.npy` file.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.archives import line
from fedspill.core.files.contents import from_array

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5


def read_record(path: Path) -> dict[str, Tensor]:
    """The arrays of a serialised `ArrayRecord` by their keys.

    Raises:
        BadInput: it is none, or a broken one.
    """
    try:
        items = [dict(_fields(item)) for number, item in _fields(path.read_bytes()) if number == 1]
        arrays = {item[1].decode(): dict(_fields(item[2])) for item in items}
        if not arrays or any(array.get(3) != b"numpy.ndarray" for array in arrays.values()):
            raise ValueError("it holds no NumPy arrays")
        return {key: _tensor(array[4], f"{str(path)!r}: {key!r}") for key, array in arrays.items()}
    except BadInput:
        raise
    except Exception as error:  # bytes of anyone's
        raise BadInput(
            f"{str(path)!r} is neither safetensors, nor a checkpoint, nor a .npz archive, nor a serialised ArrayRecord:"
            f" {line(error)}"
        ) from error


def _tensor(data: bytes, where: str) -> Tensor:
    return from_array(np.load(io.BytesIO(data), allow_pickle=False), where)


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message with their numbers; of numbers the raw bytes."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            _, end = _varint(message, at)
        elif kind == LENGTH:
            size, at = _varint(message, at)
            end = at + size
        else:
            end = at + {FIXED64: 8, FIXED32: 4}[kind]
        if end > len(message):
            raise ValueError("it ends in the midst of a field")
        yield tag >> 3, message[at:end]
        at = end


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value, at, shift = value | (byte & 0x7F) << shift, at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
