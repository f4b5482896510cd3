"""Where the user's data lies."""

import os
from pathlib import Path

from fedspill.core.errors import BadInput

VARIABLE = "FEDSPILL_DATA"


def data_root(root: str | Path | None) -> Path | None:
    """The folder given, else the one that the environment variable FEDSPILL_DATA names, else None.

    Raises:
        BadInput: the folder does not exist.
    """
    given = root or os.environ.get(VARIABLE)
    if not given:
        return None
    folder = _expanded(given)
    if not folder.is_dir():
        raise BadInput(f"data folder {str(folder)!r} does not exist; give `root` or set {VARIABLE}")
    return folder


def located(path: str, root: str | Path | None) -> Path:
    """A path as given, seen from the current folder, else from the data folder."""
    place = _expanded(path)
    base = None if place.exists() else data_root(root)
    return place if base is None else base / place


def _expanded(path: str | Path) -> Path:
    """The path with `~` replaced.

    Raises:
        BadInput: a null byte, or a `~` of nobody.
    """
    if "\0" in str(path):
        raise BadInput(f"path {str(path)!r} holds a null byte")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise BadInput(f"path {str(path)!r}: {error}") from error
