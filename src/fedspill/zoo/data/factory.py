"""Data of the user's own: what a `package.module:factory` returns."""

import re
from collections.abc import Sequence
from dataclasses import replace

from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.libraries.named import named
from fedspill.zoo.data.anything import pool_of
from fedspill.zoo.data.pool import DataPool

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_factory(name: str) -> bool:
    """Whether a plan's name of data is of the form `package.module:factory`."""
    return NAME.fullmatch(name) is not None


def from_factory(name: str, split: str | None, indices: str | Sequence[int] | None) -> DataPool:
    """What `package.module:factory` returns, as `pool_of` reads it; modules in the current folder are found too.

    Args:
        name: of the factory, which is called without arguments.
        split: if given, the factory is called with `split=`.
        indices: see `load`.

    Raises:
        BadInput: no such module or factory, it fails, or it returns something else.
    """
    factory = named(name, "data", "factory")
    try:
        made = factory() if split is None else factory(split=split)
    except FedspillError:
        raise
    except Exception as error:  # the module is the user's: anything may go wrong in it
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        raise BadInput(f"data {name!r}: {reason}; a `package.module:factory` is needed") from error
    try:
        pool = pool_of(made, indices)
    except BadInput as error:
        raise BadInput(f"data {name!r}: {error}") from error
    if isinstance(made, DataPool):
        return pool
    return replace(pool, name=f"{name}/{split or 'all'}", source=f"what {name} returns")
