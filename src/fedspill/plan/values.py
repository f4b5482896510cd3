"""Values of plans, and the FIELD=VALUE pairs of the command line."""

import math
import tomllib
from collections.abc import Callable
from typing import Any

from fedspill.core.errors import BadInput

Named = str | dict[str, Any]
"""A name, or a table of a name and fields."""
LARGEST = 2**63 - 1
"""TOML's whole numbers have 64 bits, as PyTorch's have."""
DEEPEST = 32
"""Tables and lists inside each other."""
ENDLESS = ("audit.budget", math.inf)
"""The one place of an infinite number: no limit."""
LONGEST = 80
"""Characters of a value that a message shows."""
Naming = Callable[[str], str]
"""What messages call a key (dotted; "" is the whole plan): as it was typed."""


def plan_key(where: str) -> str:
    """A key as it stands in a plan."""
    return f"plan key {shortened(where or 'plan')}"


def set_fields(settings: list[str], option: str = "--set") -> dict[str, Any]:
    """Fields and values of "FIELD=VALUE" settings; values are read as TOML, a bare word is a string.

    Args:
        option: of the command line, by which they were given.

    Raises:
        BadInput: a setting is not of the form FIELD=VALUE, or a value is none of a plan.
    """
    fields = dict[str, Any]()
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals or not name:
            example = "steps=480" if option == "--set" else "momentum=0.9"
            raise BadInput(f"{option} {shortened(setting)}: write FIELD=VALUE, for example {example}")
        if option == "--set" and name in ("name", "preset"):
            raise BadInput(f"--set {shortened(setting)}: --attack NAME:PRESET says which attack and preset")
        fields[name] = toml_value(text)
    check_values(fields, lambda where: f"{option} {shortened(where)}")
    return fields


def toml_value(text: str) -> Any:
    """One TOML value; what is none is taken as a string, so that shells need no second pair of quotes.

    Raises:
        BadInput: a number of thousands of digits, or lists inside lists without end.
    """
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()
    except (ValueError, RecursionError) as error:
        raise BadInput(f"the value {shortened(text)} cannot be read: {str(error).splitlines()[0]}") from None


def check_values(table: Any, named: Naming = plan_key) -> None:
    """Raises BadInput if a value of a plan, at any depth, is one that no key can take.

    Such are whole numbers beyond 64 bits, NaN, infinity (but as a budget), dates, text with a null byte, deep nesting.

    Args:
        named: what messages call a key.
    """
    waiting: list[tuple[str, Any, int]] = [("", table, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        if depth > DEEPEST:
            raise BadInput(f"{named(where)} lies more than {DEEPEST} tables and lists deep")
        if isinstance(value, dict):
            waiting += [(f"{where}.{key}" if where else str(key), inner, depth + 1) for key, inner in value.items()]
            wrong = next((key for key in value if _wrong(key)), None)
        elif isinstance(value, list | tuple):
            waiting += [(f"{where}.{k}", inner, depth + 1) for k, inner in enumerate(value)]
            wrong = None
        else:
            wrong = None if (where, value) == ENDLESS else value
        if wrong is not None and (reason := _wrong(wrong)):
            raise BadInput(f"{named(where or str(wrong))}: {shortened(wrong)} is {reason}")


def _wrong(value: Any) -> str | None:
    """Why a value is none of a plan."""
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        return "a whole number of more than 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "no finite number"
    if isinstance(value, str) and ("\0" in value or any("\ud800" <= c <= "\udfff" for c in value)):
        return "text with a null byte or half a character"
    if hasattr(value, "isoformat"):
        return "a date or a time, which no key takes"
    return None


def shortened(value: Any) -> str:
    """A value as it is written in Python, cut to a readable length, on one line."""
    if isinstance(value, int) and abs(value) > LARGEST + 1:
        return f"a whole number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."
