"""Plans from TOML files and plain values, checked key by key; errors name the key, the value and what is allowed."""

import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from fedspill.core.errors import BadInput
from fedspill.plan.sections import AuditPlan, Section
from fedspill.plan.values import Naming, check_values, plan_key, shortened, toml_value

MOST_TOLD = 8
"""Mistakes of one plan that are told at once."""
MOST_DIGITS = 10
P = TypeVar("P", bound=Section)


def parse_plan(table: dict[str, Any]) -> AuditPlan:
    """A plan from plain values.

    Raises:
        BadInput: names the key, the value, and what is allowed.
    """
    return parse_as(AuditPlan, table)


def parse_as(kind: type[P], table: dict[str, Any], named: Naming = plan_key) -> P:
    """A plan of any kind from plain values.

    Args:
        named: what messages call a key.

    Raises:
        BadInput: names the key, the value, and what is allowed.
    """
    check_values(table, named)
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        raise BadInput("; ".join(_explain(e, kind, named) for e in error.errors()[:MOST_TOLD])) from None
    except RecursionError:
        raise BadInput("the plan nests too deeply") from None


def _explain(error: Any, plan: type[Section], named: Naming) -> str:
    where = ".".join(str(step) for step in error["loc"] if step != "function-before[_as_entry(), AttackEntry]")
    if error["type"] == "extra_forbidden":
        return f"{named(where)} is unknown; {_known(error['loc'], plan)}"
    got = "" if error["type"] == "missing" else f" (got {shortened(error['input'])})"
    return f"{named(where)}: {error['msg'].removeprefix('Value error, ')}{got if where else ''}"


def _known(loc: tuple[Any, ...], plan: type[Section]) -> str:
    section: Any = plan
    for step in loc[:-1]:
        field = getattr(section, "model_fields", {}).get(step)
        kinds = get_args(field.annotation) or (field.annotation,) if field is not None else (section,)
        section = next((k for k in kinds if hasattr(k, "model_fields")), section)
    names = getattr(section, "model_fields", plan.model_fields)
    return f"allowed here: {', '.join(names)}"


def read_plan(path: Path, settings: list[str] | None = None) -> AuditPlan:
    """A plan from a TOML file, with `SECTION.KEY=VALUE` settings laid over it.

    Raises:
        BadInput: the file is missing, is no TOML, or holds keys or values that are not allowed.
    """
    return read_as(AuditPlan, path, settings)


def read_as(kind: type[P], path: Path, settings: list[str] | None = None) -> P:
    """A plan of any kind from a TOML file, with `SECTION.KEY=VALUE` settings laid over it.

    Raises:
        BadInput: the file is missing, is no TOML, or holds keys or values that are not allowed.
    """
    return parse_as(kind, _table(path, settings))


def _table(path: Path, settings: list[str] | None = None) -> dict[str, Any]:
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
    parts = key.strip().split(".")
    if not equals or len(parts) < 2:
        raise BadInput(f"--set {shortened(setting)}: write SECTION.KEY=VALUE, for example client.num_examples=8")
    here: Any = table
    for step in parts[:-1]:
        here = _inside(here, step, setting)
    if not isinstance(here, dict):
        whose = f"--set {shortened(setting)}: {shortened(parts[-2])}"
        raise BadInput(f"{whose} is a list; name the place of one of its tables and a key")
    here[parts[-1]] = toml_value(text)


def _inside(here: Any, key: str, setting: str) -> Any:
    """A table's section, or the table at a place (from 0) of a list of tables."""
    if isinstance(here, dict):
        inner = here.setdefault(key, {})
    elif key.isdecimal() and len(key) < MOST_DIGITS and int(key) < len(here):
        inner = here[int(key)]
    else:
        place = f"{shortened(key)} is no place in a list of {len(here)}"
        raise BadInput(f"--set {shortened(setting)}: {place}; they count from 0")
    if not isinstance(inner, dict | list):
        raise BadInput(f"--set {shortened(setting)}: {shortened(key)} is a value, not a section")
    return inner
