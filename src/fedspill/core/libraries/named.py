"""What `package.module:name` stands for, in code of the user's own."""

import importlib
import sys
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput


def named(name: str, what: str, form: str = "name") -> Any:
    """The object that `package.module:name` names; modules in the current folder are found too.

    Args:
        name: such as "my_package.losses:focal".
        what: it stands for, for messages.
        form: of thing, likewise: "function", "factory".

    Raises:
        BadInput: there is no such module or name, or importing it fails.
    """
    place, colon, attribute = name.partition(":")
    if not (place and colon and attribute):
        raise BadInput(f"{what} {name!r}: `package.module:{form}` is needed")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(place)
        for step in attribute.split("."):
            found = getattr(found, step)
    except Exception as error:  # the module is the user's: anything may go wrong in it
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise BadInput(f"{what} {name!r}: {reason}; `package.module:{form}` is needed") from error
    return found


def called(name: str, what: str) -> Any:
    """What the factory that `package.module:factory` names returns when it is called without arguments.

    Raises:
        BadInput: as `named`; or the call fails.
    """
    factory = named(name, what)
    try:
        return factory()
    except Exception as error:  # the user's
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        raise BadInput(f"{what} {name!r}: the call failed with {reason}") from error
