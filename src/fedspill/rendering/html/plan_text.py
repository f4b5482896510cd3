"""A plan as the TOML that a person would have written."""

import json
from collections.abc import Mapping
from typing import Any, cast


def plan_text(plan: Mapping[str, Any]) -> str:
    """The plan with every default filled in; settings that are None are left out, as TOML has no null."""
    return "\n".join(_table(plan, "")).strip() + "\n"


def _table(table: Mapping[str, Any], path: str) -> list[str]:
    lines = [f"{_key(k)} = {value_text(v)}" for k, v in table.items() if _is_plain(v)]
    for key, value in table.items():
        here = f"{path}.{_key(key)}".lstrip(".")
        if isinstance(value, Mapping):
            lines += ["", f"[{here}]", *_table(cast("Mapping[str, Any]", value), here)]
        elif _is_tables(value):
            for entry in cast("list[Mapping[str, Any]]", value):
                lines += ["", f"[[{here}]]", *_table(entry, here)]
    return lines


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, Mapping) for v in cast("list[Any]", value))


def _is_plain(value: object) -> bool:
    return value is not None and not isinstance(value, Mapping) and not _is_tables(value)


def _key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else json.dumps(key)


def value_text(value: object) -> str:
    """One value as TOML, a table in one line."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(value_text(v) for v in cast("list[Any]", value)) + "]"
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, Any]", value).items()
        return "{ " + ", ".join(f"{_key(k)} = {value_text(v)}" for k, v in entries if v is not None) + " }"
    if isinstance(value, bool | int | float):
        return json.dumps(value).replace("Infinity", "inf").replace("NaN", "nan")
    return json.dumps(str(value), ensure_ascii=False)
