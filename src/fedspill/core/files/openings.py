"""What the first bytes of a file say that it is."""

import codecs
from pathlib import Path

from fedspill.core.errors import BadInput

ZIP, NUMPY, PICKLE, RECORD = b"PK", b"\x93NUMPY", b"\x80", b"\x0a"
"""Of checkpoints and NumPy archives; single arrays; older checkpoints; Flower's records (field 1, with its length)."""
NEEDED = "safetensors, a checkpoint of torch.save, or a NumPy archive (.npz) is needed"
LFS = b"version https://git-lfs.github.com/"
LONGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file."""
OTHERS = {
    b"\x89HDF": "an HDF5 file (as Keras writes)",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"GGUF": "a GGUF file",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF document",
}
MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
READ, SHOWN = 4096, 30


def opening(path: Path) -> bytes:
    """The first bytes of a file of tensors.

    Raises:
        BadInput: it cannot be read, or is empty, a text, or of another kind that can be told.
    """
    try:
        with path.open("rb") as file:
            start = file.read(READ)
    except OSError as error:
        raise BadInput(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    if (told := _other(start)) is not None:
        raise BadInput(f"{str(path)!r} is {told}; {NEEDED}")
    return start


def is_safetensors(start: bytes) -> bool:
    """Whether a header of JSON follows its length."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER


def is_known(start: bytes) -> bool:
    """Whether a reader knows files that begin so."""
    return start.startswith((ZIP, NUMPY, PICKLE, RECORD)) or is_safetensors(start)


def shown(start: bytes) -> str:
    """The first bytes, for a message."""
    return start[:8].hex(" ")


def _other(start: bytes) -> str | None:
    if not start:
        return "an empty file (0 bytes)"
    if start.startswith(LFS):
        return "a Git LFS pointer, a text that stands in for the file; fetch the file with `git lfs pull`"
    if (text := _text(start)) is not None:
        return f"a text file (it begins {' '.join(text.split())[:SHOWN]!r})"
    return next((words for magic, words in OTHERS.items() if start.startswith(magic)), None)


def _text(start: bytes) -> str | None:
    """The text that bytes are; None if they are none."""
    coding = "utf-16" if start.startswith(MARKS) else "utf-8"
    try:
        text = codecs.getincrementaldecoder(coding)().decode(start)
    except UnicodeDecodeError:
        return None
    return text if all(c.isprintable() or c.isspace() for c in text) else None
