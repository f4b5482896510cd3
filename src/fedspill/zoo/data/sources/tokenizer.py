"""Tokenizers of sentences: bytes, which need nothing, and those of files by the `tokenizers` package."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.zoo.root import located

BYTES = "bytes"
NEEDED = (
    'it must be "bytes", a tokenizer.json, a folder with one or with vocab.json and merges.txt, or "VOCAB.json,MERGES"'
)


@dataclass(frozen=True)
class Tokenizer:
    """Text to token numbers and back.

    Attributes:
        name: as in the plan.
        vocabulary: token numbers are below it.
        decode: token numbers to text; what is no text becomes the replacement character.
    """

    name: str
    vocabulary: int
    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]


def _byte_numbers(text: str) -> list[int]:
    return list(text.encode())


def _from_bytes(tokens: list[int]) -> str:
    return bytes(tokens).decode("utf-8", "replace")


def open_tokenizer(name: str, root: str | Path | None) -> Tokenizer:
    """The tokenizer that a plan names; paths are seen from the current folder, else from the data folder.

    Args:
        name: "bytes" (UTF-8, vocabulary 256); a `tokenizer.json`; a folder that holds one, or `vocab.json` and
            `merges.txt` of a byte-level BPE; or the paths of two such files with a comma between them.
        root: the data folder, see `data_root`.

    Raises:
        BadInput: no such file, one that cannot be read, or the package `tokenizers` is missing.
    """
    if name == BYTES:
        return Tokenizer(name, 256, _byte_numbers, _from_bytes)
    files = _files(name, root)
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        raise BadInput(f"tokenizer {name!r}: {missing[0]!r} is no file; {NEEDED}")
    return _opened(name, files)


def _files(name: str, root: str | Path | None) -> list[Path]:
    parts = [located(path.strip(), root) for path in name.split(",")]
    if len(parts) > 2:
        raise BadInput(f"tokenizer {name!r} names {len(parts)} files; {NEEDED}")
    if len(parts) == 1 and parts[0].is_dir():
        whole = parts[0] / "tokenizer.json"
        return [whole] if whole.is_file() else [parts[0] / "vocab.json", parts[0] / "merges.txt"]
    return parts


def _opened(name: str, files: list[Path]) -> Tokenizer:
    library = _library()
    try:
        if len(files) == 2:
            made: Any = library.ByteLevelBPETokenizer(str(files[0]), str(files[1]))
        else:
            made = library.Tokenizer.from_file(str(files[0]))
            made.no_truncation()
            made.no_padding()
    except Exception as error:  # the library raises bare Exceptions
        raise BadInput(f"tokenizer {name!r} cannot be read: {str(error).splitlines()[0]}; {NEEDED}") from error

    def encode(text: str) -> list[int]:
        return made.encode(text, add_special_tokens=False).ids

    def decode(tokens: list[int]) -> str:
        return made.decode(tokens, skip_special_tokens=False)

    return Tokenizer(name, max(made.get_vocab().values()) + 1, encode, decode)


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise BadInput(
            f"tokenizers cannot be imported ({error}); install it: pip install 'fedspill[text]', or use"
            ' tokenizer = "bytes"'
        ) from error
