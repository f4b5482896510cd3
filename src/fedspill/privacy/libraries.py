"""The libraries of the extra `privacy`, imported when they are used."""

import importlib
import importlib.util
from typing import Any

from fedspill.core.errors import BadInput


def library(name: str) -> Any:
    """A module of dp-accounting or riskcal, such as "dp_accounting.pld".

    Raises:
        BadInput: it is not installed.
    """
    root = name.partition(".")[0]
    if importlib.util.find_spec(root) is None:
        raise BadInput(f"{root.replace('_', '-')} is needed for this: pip install 'fedspill[privacy]'")
    return importlib.import_module(name)
