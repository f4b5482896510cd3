"""Settings in groups: a component holds small dataclasses; plans, reports and tables name its fields in one flat list.

A group is a frozen dataclass that derives from `Group`. Its fields count as those of the dataclass that holds it, so
that `InvertingGradients(search=SearchSettings(lr=0.3))` is `lr = 0.3` in a plan. A dataclass that is no group stays a
table of its own: `matching = { iterations = 150 }`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, get_type_hints

from fedspill.core.errors import BadInput

S = TypeVar("S")


class Group:
    """Base of a dataclass of settings that belong together; it holds no further groups."""


def flat_fields(settings: Any) -> dict[str, Any]:
    """Fields by name, in order, those of groups in the place of the group; values stay as they are."""
    named = dict[str, Any]()
    for field in fields(settings):
        value = getattr(settings, field.name)
        named |= flat_fields(value) if isinstance(value, Group) else {field.name: value}
    return named


def plain_fields(settings: Any) -> dict[str, Any]:
    """Fields as `dataclasses.asdict` gives them, dictionaries for dataclasses at every depth, but groups dissolved."""
    return {name: _plain(value) for name, value in flat_fields(settings).items()}


def field_names(kind: type) -> list[str]:
    """Names of the fields of a dataclass, in order, those of groups in the place of the group."""
    return [name for group, names in _members(kind) for name in (names if names else [group])]


def described(settings: Any) -> str:
    """As `repr` writes a dataclass, its fields in one flat list."""
    if not is_dataclass(settings):
        return repr(settings)
    shown = (f"{name}={described(value)}" for name, value in flat_fields(settings).items())
    return f"{type(settings).__name__}({', '.join(shown)})"


def with_fields(settings: S, **changes: Any) -> S:
    """`dataclasses.replace` by flat names: fields of groups change inside their group.

    Raises:
        BadInput: there is no such field, or the new values do not go together.
    """
    known = flat_fields(settings)
    if unknown := sorted(changes.keys() - known.keys()):
        raise BadInput(f"{type(settings).__name__} has no field {', '.join(unknown)}; it has {', '.join(known)}")
    direct = dict[str, Any]()
    for field in fields(settings):  # pyright: ignore[reportArgumentType]
        value = getattr(settings, field.name)
        inside = {k: changes[k] for k in flat_fields(value) if k in changes} if isinstance(value, Group) else {}
        if inside:
            direct[field.name] = replace(value, **inside)  # pyright: ignore[reportArgumentType]
        elif field.name in changes:
            direct[field.name] = changes[field.name]
    return replace(settings, **direct)  # pyright: ignore[reportArgumentType]


def grouped(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by flat names, as the dataclass's constructor takes them: each moved into the group that has its name.

    Dictionaries that stand for dataclasses are treated alike. Names that the dataclass does not have are kept.
    """
    home = {name: group for group, names in _members(kind) for name in names}
    hints, nested = get_type_hints(kind), dict[str, Any]()
    for name, value in values.items():
        if name in home:
            nested.setdefault(home[name], {})[name] = value
        elif isinstance(value, Mapping) and is_dataclass(hint := hints.get(name)):
            nested[name] = grouped(hint, value)  # pyright: ignore[reportArgumentType, reportUnknownArgumentType]
        else:
            nested[name] = value
    return nested


def flat_path(kind: type, path: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The path of a value inside a dataclass without the names of groups, as a plan's author knows it."""
    if not path or not is_dataclass(kind):
        return path
    groups = {group for group, names in _members(kind) if names}
    hint = get_type_hints(kind).get(str(path[0]))
    if path[0] in groups:
        return path[1:]
    return path[:1] + (flat_path(hint, path[1:]) if isinstance(hint, type) else path[1:])


def _members(kind: type) -> Iterator[tuple[str, list[str]]]:
    """Each field, with the names of the fields inside it if it is a group."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        hint = hints[field.name]
        yield field.name, field_names(hint) if isinstance(hint, type) and issubclass(hint, Group) else []


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return plain_fields(value)
    return tuple(_plain(v) for v in value) if isinstance(value, tuple) else value  # pyright: ignore[reportUnknownVariableType]
