"""The text that comes with fedspill's own dependencies: what scikit-learn says of its data sets."""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from fedspill.core.errors import BadInput


def descriptions() -> list[Path]:
    """The files, in the order of their names; nothing of scikit-learn is imported.

    Raises:
        BadInput: the installed release does not carry them.
    """
    spec = find_spec("sklearn")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    files = sorted((Path(folders[0]) / "datasets/descr").glob("*.rst")) if folders else []
    if len(files) < 2:
        raise BadInput("the installed sklearn does not carry datasets/descr/*.rst; another release of it does")
    return files


def prose(files: Iterable[Path]) -> str:
    """What the files say, in one line."""
    return " ".join(line for file in files for line in _lines(file.read_text(encoding="utf-8").splitlines()))


def _lines(lines: Iterable[str]) -> list[str]:
    """Lines that hold words; directives and rules are of no interest."""
    bare = (line.strip() for line in lines)
    return [line for line in bare if re.search(r"[A-Za-z]", line) and not line.startswith("..")]
