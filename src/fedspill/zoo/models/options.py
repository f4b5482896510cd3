"""A network's options: typed fields of a frozen dataclass, set from what a plan says."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from fedspill.core.errors import BadInput

T = TypeVar("T")


def with_options(defaults: T, given: Mapping[str, object], owner: str) -> T:
    """`defaults` (a dataclass instance) with the given fields replaced.

    Args:
        defaults: what holds for fields that are not given.
        given: from a plan; lists stand for tuples.
        owner: whose options they are, for messages.

    Raises:
        BadInput: an unknown option, or a value of the wrong kind.
    """
    hints = get_type_hints(type(defaults))
    for name, value in given.items():
        if name not in hints:
            allowed = ", ".join(hints) or "no options"
            raise BadInput(f"{owner} has no option {name!r}; it has {allowed}")
        if not _fits(value, hints[name]):
            raise BadInput(f"option {name}={value!r} of {owner} must be {needed(hints[name])}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return dataclasses.replace(defaults, **values)  # pyright: ignore[reportArgumentType, reportReturnType, reportCallIssue]


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if get_origin(hint) is tuple:
        return isinstance(value, (list, tuple)) and all(_fits(v, get_args(hint)[0]) for v in value)
    return isinstance(value, hint)


def needed(hint: Any) -> str:
    """What a field of this type takes, in words."""
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {needed(get_args(hint)[0])}"
    return {int: "a whole number from 1", bool: "true or false"}.get(hint, str(hint))


def describe(defaults: Any) -> str:
    """The options with their defaults and choices, for a listing."""
    hints = get_type_hints(type(defaults))
    return "; ".join(f"{k} = {getattr(defaults, k)!r} ({needed(h)})" for k, h in hints.items())
