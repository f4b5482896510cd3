"""A change as text, as the command line takes it, and laid over a plan."""

import copy
import json
from collections.abc import Mapping
from typing import Any

from fedspill.plan.tables import put

Settings = tuple[tuple[str, Any], ...]
"""Dotted keys of a plan and their values."""


def laid_over(table: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The plan with a change; it is not changed itself.

    Raises:
        BadInput: a key leads through a value.
    """
    changed = copy.deepcopy(dict(table))
    for key, value in settings:
        put(changed, key.split("."), copy.deepcopy(value), f"change of {key}")
    return changed


def texts(settings: Settings) -> list[str]:
    """As `--set` takes them: "KEY=VALUE" each, the value as TOML."""
    return [f"{key}={toml(value)}" for key, value in settings]


def toml(value: Any) -> str:
    """One value of a plan on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
