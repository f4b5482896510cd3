"""One set of tensors as different tools write it, and files that no tool should have written."""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

State = dict[str, Tensor]


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low]) if not rest else bytes([low | 0x80]) + varint(rest)


def field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message that has a length."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def npy(tensor: Tensor) -> bytes:
    """A tensor as a .npy file."""
    file = io.BytesIO()
    np.save(file, tensor.numpy(), allow_pickle=False)
    return file.getvalue()


def array_record(state: State) -> bytes:
    """What `array_record_to_proto(ArrayRecord(state)).SerializeToString()` of Flower 1.42 gives."""
    items = b""
    for name, tensor in state.items():
        shape = field(2, b"".join(map(varint, tensor.shape)))
        dtype = field(1, str(tensor.numpy().dtype).encode())
        array = dtype + shape + field(3, b"numpy.ndarray") + field(4, npy(tensor))
        items += field(1, field(1, name.encode()) + field(2, array))
    return items


def saved_arrays(path: Path, arrays: dict[str, np.ndarray] | list[np.ndarray]) -> Path:
    """A .npz archive."""
    np.savez(path, *arrays) if isinstance(arrays, list) else np.savez(path, **arrays)
    return path


def encrypted(path: Path) -> Path:
    """An archive whose member says that it is encrypted."""
    saved_arrays(path, {"w": np.ones(3, np.float32)})
    content = bytearray(path.read_bytes())
    content[6] |= 1  # flags of the first local header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and of its entry in the directory
    path.write_bytes(bytes(content))
    return path


def oddly_compressed(path: Path) -> Path:
    """An archive whose member says that it is compressed by a method that Python has not."""
    saved_arrays(path, {"w": np.ones(3, np.float32)})
    content = bytearray(path.read_bytes())
    content[8:10] = (97).to_bytes(2, "little")
    at = content.index(b"PK\x01\x02") + 10
    content[at : at + 2] = (97).to_bytes(2, "little")
    path.write_bytes(bytes(content))
    return path


def with_member(path: Path, name: str, content: bytes) -> Path:
    """An archive of one member."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, content)
    return path


def claiming(shape: str) -> bytes:
    """A .npy file whose header claims a shape that its content has not."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(8)


def quantised(state: State) -> State:
    """Whole numbers of 8 bits, with a scale for each tensor."""
    found = State()
    for name, tensor in state.items():
        scale = tensor.abs().max() / 127
        found |= {name: (tensor / scale).round().to(torch.int8), f"{name}.scale": scale}
    return found
