"""Tokenizers of sentences: bytes, which need nothing, and those of files by the `tokenizers` package."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import getsource
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.zoo.data.sources.descriptions import descriptions, prose
from fedspill.zoo.root import located

BYTES = "bytes"
MOST_TOKENS = 2**21
"""An embedding of more rows than this belongs to a broken file."""
TRAINED = "bpe:"
LEAST_TRAINED, MOST_TRAINED = 257, 2**16
"""Tokens of a trained byte-level BPE: one more than there are bytes, and more than the text has."""
NEEDED = (
    'it must be "bytes", "bpe:N" (N tokens, trained on the embedded text), a tokenizer.json, a folder with one or'
    ' with vocab.json and merges.txt, or "VOCAB.json,MERGES"'
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
        name: "bytes" (UTF-8, vocabulary 256); "bpe:N", a byte-level BPE of up to N tokens, trained here on all text
            that `sentences` has, private and public, as everyone in a federation has one tokenizer; a
            `tokenizer.json`; a folder that holds one, or `vocab.json` and `merges.txt` of a byte-level BPE; or the
            paths of two such files with a comma between them.
        root: the data folder, see `data_root`.

    Raises:
        BadInput: no such file, one that cannot be read, or the package `tokenizers` is missing.
    """
    if name == BYTES:
        return Tokenizer(name, 256, _byte_numbers, _from_bytes)
    if name.startswith(TRAINED):
        return _trained(name)
    files = _files(name, root)
    missing = [str(f) for f in files if not f.is_file()]
    if missing:
        raise BadInput(f"tokenizer {name!r}: {missing[0]!r} is no file; {NEEDED}")
    return _opened(name, files)


def _trained(name: str) -> Tokenizer:
    said = name.removeprefix(TRAINED)
    size = int(said) if said.isdecimal() else 0
    if not LEAST_TRAINED <= size <= MOST_TRAINED:
        raise BadInput(f"tokenizer {name!r}: {said!r} is no number from {LEAST_TRAINED} to {MOST_TRAINED}; {NEEDED}")
    made = _library().ByteLevelBPETokenizer()
    made.train_from_iterator([prose(descriptions())], vocab_size=size, min_frequency=2, show_progress=False)

    def encode(text: str) -> list[int]:
        return list(made.encode(text).ids)

    def decode(tokens: list[int]) -> str:
        return str(made.decode(tokens))

    return Tokenizer(name, int(made.get_vocab_size()), encode, decode)


def _files(name: str, root: str | Path | None) -> list[Path]:
    parts = [located(path.strip(), root) for path in name.split(",")]
    if len(parts) > 2:
        raise BadInput(f"tokenizer {name!r} names {len(parts)} files; {NEEDED}")
    if len(parts) == 1 and parts[0].is_dir():
        whole = parts[0] / "tokenizer.json"
        return [whole] if whole.is_file() else [parts[0] / "vocab.json", parts[0] / "merges.txt"]
    return parts


def _opened(name: str, files: list[Path]) -> Tokenizer:
    _library()
    paths = [str(file) for file in files]
    vocabulary = _in_child(name, paths, "")["vocabulary"]
    if not 1 <= vocabulary <= MOST_TOKENS:
        raise BadInput(
            f"tokenizer {name!r} has token numbers below {vocabulary}; from 1 to {MOST_TOKENS} tokens can be taken"
        )

    def encode(text: str) -> list[int]:
        tokens = _in_child(name, paths, text)["tokens"]
        if max(tokens, default=0) >= vocabulary:
            raise BadInput(f"tokenizer {name!r} gives token {max(tokens)}, its vocabulary ends below {vocabulary}")
        return tokens

    opened = list[Any]()

    def decode(tokens: list[int]) -> str:
        opened.extend([] if opened else [_open(*paths)])
        try:
            return opened[0].decode(tokens, skip_special_tokens=False)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic of the library is no Exception
            return " ".join(map(str, tokens))

    return Tokenizer(name, vocabulary, encode, decode)


def _open(first: str, second: str | None = None) -> Any:
    """A tokenizer of one file or two; self-contained, for its source is what the child runs."""
    import tokenizers

    if second is not None:
        return tokenizers.ByteLevelBPETokenizer(first, second)
    made = tokenizers.Tokenizer.from_file(first)
    made.no_truncation()
    made.no_padding()
    return made


CHILD = f"""
from __future__ import annotations
import json, sys
{getsource(_open)}
text = sys.stdin.buffer.read().decode()
made = _open(*sys.argv[1:])
numbers = made.get_vocab().values()
tokens = made.encode(text, add_special_tokens=False).ids if text else []
made.decode(tokens or list(numbers), skip_special_tokens=False)
sys.stdout.write("\\n" + json.dumps({{"vocabulary": max(numbers, default=-1) + 1, "tokens": tokens}}))
"""
"""A program that prints, as its last line, how many tokens there are and the tokens of the text that it is handed."""


def _in_child(name: str, paths: list[str], text: str) -> Any:
    """What `CHILD` says: a broken file makes the library abort its process, which must not be this one.

    Raises:
        BadInput: the library fails or aborts.
    """
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *paths],
        input=text.encode(),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    told = done.stderr.decode("utf-8", "replace").strip().splitlines()
    reason = told[-1].partition(": ")[2] or told[-1] if told else "nothing was said"
    doing = "cannot encode this text" if text else "cannot be read"
    how = f" (the library was ended by signal {-done.returncode})" if done.returncode < 0 else ""
    raise BadInput(f"tokenizer {name!r} {doing}: {reason[:200]}{how}; {NEEDED}")


def _library() -> Any:
    try:
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise BadInput(
            f"tokenizers cannot be imported ({error}); install it: pip install 'fedspill[text]', or use"
            ' tokenizer = "bytes"'
        ) from error
