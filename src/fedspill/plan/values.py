"""FIELD=VALUE pairs of the command line."""

import tomllib
from typing import Any

from fedspill.core.errors import BadInput


def set_fields(settings: list[str]) -> dict[str, Any]:
    """Fields and values of "FIELD=VALUE" settings; values are read as TOML, a bare word is a string.

    Raises:
        BadInput: a setting is not of the form FIELD=VALUE.
    """
    fields = dict[str, Any]()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"--set {setting!r}: write FIELD=VALUE, for example steps=480")
        fields[name.strip()] = toml_value(text)
    return fields


def toml_value(text: str) -> Any:
    """One TOML value; what is none is taken as a string, so that shells need no second pair of quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
