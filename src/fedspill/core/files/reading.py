"""A file of weights or of an update to named tensors, by what the file holds rather than by its name."""

import zipfile
from pathlib import Path

from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.archives import read_archive, read_array
from fedspill.core.files.checkpoints import read_checkpoint, read_safetensors
from fedspill.core.files.openings import NEEDED, NUMPY, RECORD, ZIP, is_known, is_safetensors, opening, shown
from fedspill.core.files.records import read_record


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Named tensors of a file, on the CPU, as they are stored; `fedspill.core.files.fitting` puts them into a model.

    Safetensors; checkpoints that `weights_only=True` loads, nested ones with " > " between the names; NumPy archives,
    Flower's lists of arrays ("arr_0", ...) among them; one array; Flower's serialised `ArrayRecord`.

    Raises:
        BadInput: no such file, a broken or unsafe one, or one that holds anything but numbers.
    """
    path = checked_path(path, "file")
    start = opening(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if start.startswith(NUMPY):
        return {"arr_0": read_array(path)}
    if path.suffix == ".npz" or (start.startswith(ZIP) and _holds_arrays(path)):
        return read_archive(path)
    if is_safetensors(start):
        return read_safetensors(path)
    if start.startswith(RECORD):
        return read_record(path)
    if not is_known(start):
        raise BadInput(f"{str(path)!r} is of no known kind (its first bytes are {shown(start)}); {NEEDED}")
    return read_checkpoint(path)


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # the reader of checkpoints tells what is wrong


def checked_path(path: str | Path, what: str) -> Path:
    """A path to a file that is there.

    Raises:
        BadInput: there is none, or it can be none.
    """
    try:
        if "\0" not in str(path) and Path(path).is_file():
            return Path(path)
        there = "\0" not in str(path) and Path(path).is_dir()
    except OSError as error:
        raise BadInput(f"{what} {str(path)!r} cannot be opened: {error.strerror}") from None
    said = "is a folder; a file is needed" if there else "does not exist"
    raise BadInput(f"{what} {str(path)!r} {said}")


def read_folder(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of every file of a folder by the file's name, in the order of names; hidden files are passed over.

    Raises:
        BadInput: the folder holds no file, or one of them cannot be read.
    """
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    if not files:
        raise BadInput(f"folder {str(path)!r} holds no file; one update of each client is needed")
    return {file.name: read_tensors(file) for file in files}
