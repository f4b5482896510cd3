"""Sentences: a text cut into pieces of equally many tokens, each labelled with its next tokens."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import TokenSpec
from fedspill.zoo.data.sources.descriptions import descriptions, prose
from fedspill.zoo.data.sources.source import Source
from fedspill.zoo.data.sources.tokenizer import Tokenizer

DEFAULT_LENGTH = 32
"""Tokens per sentence, as in Robbing the Fed (arXiv 2110.13057, appendix A.4)."""

HEADING = re.compile(r"\s*=.*=\s*")
"""A title in WikiText, such as " = = Description = = "."""


def text(path: Path, length: int, tokenizer: Tokenizer) -> Source:
    """Sentences of a plain text file (UTF-8), headings and blank lines left out.

    Example k holds tokens k * length to (k + 1) * length of the whole text, its labels the same one further: so the
    last label of a sentence is the first token of the next one.

    Args:
        path: such as WikiText-2 in its plain form.
        length: tokens per sentence.
        tokenizer: of the whole text at once.

    Raises:
        BadInput: no such file, no UTF-8, or too short a text.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"text file {str(path)!r} cannot be read as UTF-8: {error}") from error
    kept = (line for line in lines if line.strip() and not HEADING.fullmatch(line))
    return _source(f"text:{path}", f"text file {path}", "\n".join(kept), length, tokenizer)


def sentences(split: Literal["private", "public"], length: int, tokenizer: Tokenizer) -> Source:
    """The embedded default: what scikit-learn says of its data sets; nothing is downloaded.

    Every other description is private, the others are public, so that the two share no passage.
    """
    files = descriptions()[0 if split == "private" else 1 :: 2]
    names = ", ".join(file.stem for file in files)
    return _source(
        "sentences", f"descriptions of data sets that scikit-learn carries ({names})", prose(files), length, tokenizer
    )


def _source(name: str, description: str, content: str, length: int, tokenizer: Tokenizer) -> Source:
    tokens = torch.tensor(tokenizer.encode(content), dtype=torch.long)
    count = (len(tokens) - 1) // length
    if count < 1:
        raise BadInput(f"{name} holds {len(tokens)} tokens; length={length} needs at least {length + 1}")
    inputs: Int[Tensor, "n t"] = tokens[: count * length].view(count, length)
    labels: Int[Tensor, "n t"] = tokens[1 : count * length + 1].view(count, length)

    def read(positions: list[int]) -> Tensor:
        return inputs[positions]

    return Source(
        name,
        f"{description}; {length} tokens ({tokenizer.name}) a sentence",
        (),
        tokenizer.vocabulary,
        labels,
        True,
        read,
        spec=TokenSpec(length, tokenizer.vocabulary),
        show=shown_by(tokenizer.decode),
    )


def shown_by(decode: Callable[[list[int]], str]) -> Callable[[Tensor], list[str]]:
    """Sentences as one line of text each, from what turns token numbers into text."""

    def show(tokens: Tensor) -> list[str]:
        return [_line(decode(sentence)) for sentence in tokens.long().tolist()]

    return show


def _line(content: str) -> str:
    return "".join(c if c.isprintable() else "↵" if c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in content)
