"""NumPy archives (`.npz`) and single arrays (`.npy`), member by member; nothing is unpickled."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.contents import from_array
from fedspill.core.memory import free_bytes, words

ENCRYPTED = 0x1
SPACE = re.compile(r"\s+")


def read_archive(path: Path) -> dict[str, Tensor]:
    """The arrays of an archive by the names of its members.

    Raises:
        BadInput: a broken archive, one that is encrypted, in a compression that Python has not, or larger than the
            memory; or a member that is no array of numbers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            _check(path, members)
            return {_name(m): from_array(_array(archive, m), f"{str(path)!r}: {_name(m)!r}") for m in members}
    except BadInput:
        raise
    except Exception as error:  # zlib, lzma, zipfile and numpy each have their own
        raise BadInput(f"{str(path)!r} is no .npz archive of plain arrays: {line(error)}") from error


def read_array(path: Path) -> Tensor:
    """The one array of a `.npy` file.

    Raises:
        BadInput: a broken or a pickled one, or one larger than the memory.
    """
    try:
        return from_array(np.load(path, allow_pickle=False), repr(str(path)))
    except BadInput:
        raise
    except Exception as error:  # as above
        raise BadInput(f"{str(path)!r} is no .npy file of plain numbers: {line(error)}") from error


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    names = [m.filename for m in members]
    if not members:
        raise BadInput(f"{str(path)!r} holds no array")
    for member in members:
        if not member.filename.endswith(".npy"):
            raise BadInput(f"{str(path)!r}: member {member.filename!r} is no array; a .npz archive of arrays is needed")
        if member.flag_bits & ENCRYPTED:
            raise BadInput(f"{str(path)!r}: member {member.filename!r} is encrypted; store it without a password")
        if names.count(member.filename) > 1:
            raise BadInput(f"{str(path)!r} holds two members {member.filename!r}")
    size, free = sum(m.file_size for m in members), free_bytes(torch.device("cpu"))
    if size > free:
        raise BadInput(f"{str(path)!r} unpacks to {words(size)}; {words(free)} of memory are free")


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def line(error: BaseException) -> str:
    """An error in one line of a readable length."""
    return SPACE.sub(" ", str(error)).strip()[:160] or type(error).__name__
