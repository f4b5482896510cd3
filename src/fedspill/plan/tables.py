"""Plans as they are written: TOML files, with settings of the command line laid over them."""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.plan.values import shortened, toml_value

MOST_DIGITS = 10
LISTS = ("defences",)
"""Keys of no section."""


def table_of(path: Path, settings: list[str] | None = None) -> dict[str, Any]:
    """The tables of a TOML file, with `SECTION.KEY=VALUE` settings laid over them, not checked.

    Raises:
        BadInput: the file is missing or is no TOML, or a setting is not of this form.
    """
    if not path.is_file():
        raise BadInput(f"plan file {str(path)!r} does not exist")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError, and no TOML's own
        raise BadInput(f"plan file {str(path)!r} is not valid TOML: {str(error).splitlines()[0]}") from None
    for setting in settings or []:
        _lay_over(table, setting)
    return table


def _lay_over(table: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or ("." not in key.strip() and key.strip() not in LISTS):
        raise BadInput(f"--set {shortened(setting)}: write SECTION.KEY=VALUE, for example client.num_examples=8")
    put(table, key.strip().split("."), toml_value(text), f"--set {shortened(setting)}")


def put(table: dict[str, Any], keys: Sequence[str], value: Any, where: str) -> None:
    """Sets one key of nested tables in place; missing tables are made.

    Args:
        keys: the way to it, at least one; of a list of tables the place (from 0) of one.
        where: what messages begin with.

    Raises:
        BadInput: the way leads through a value, or to a place that a list lacks.
    """
    here: Any = table
    for step in keys[:-1]:
        here = _inside(here, step, where)
    if not isinstance(here, dict):
        raise BadInput(f"{where}: {shortened(keys[-2])} is a list; name the place of one of its tables and a key")
    here[keys[-1]] = value


def _inside(here: Any, key: str, where: str) -> Any:
    """A table's section, or the table at a place (from 0) of a list of tables."""
    if isinstance(here, dict):
        inner = here.setdefault(key, {})
    elif key.isdecimal() and len(key) < MOST_DIGITS and int(key) < len(here):
        inner = here[int(key)]
    else:
        raise BadInput(f"{where}: {shortened(key)} is no place in a list of {len(here)}; they count from 0")
    if not isinstance(inner, dict | list):
        raise BadInput(f"{where}: {shortened(key)} is a value, not a section")
    return inner
