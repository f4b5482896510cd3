"""The table `sweep` of a plan multiplied out: one plan for each combination of its keys' values."""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from fedspill.core.errors import BadInput
from fedspill.plan.sections import AuditPlan
from fedspill.plan.tables import put
from fedspill.plan.values import check_values, shortened

SWEEP = "sweep"
MOST_POINTS = 100_000
"""Combinations of one sweep."""


@dataclass(frozen=True)
class Axis:
    """One key that varies.

    Attributes:
        key: as in a plan, dotted.
        values: at least one, as the key takes them.
    """

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One combination.

    Attributes:
        values: what the sweep sets, dotted key to value.
        table: the plan with these; without what could not be set.
        refused: why it is no plan, if it is none.
    """

    values: Mapping[str, Any]
    table: dict[str, Any]
    refused: str | None = None


def points(table: Mapping[str, Any]) -> list[Point]:
    """Every combination that a plan with a table `sweep`, or with several, asks for, in their order.

    Args:
        table: as it was read; is not changed. Several tables `[[sweep]]` are grids one after the other.

    Raises:
        BadInput: there is no such table, a key of it holds no list, or there are more than `MOST_POINTS` combinations.
    """
    rest = {k: v for k, v in table.items() if k != SWEEP}
    found = list[Point]()
    for grid in _grids(table.get(SWEEP)):
        axes = axes_of(grid)
        if len(found) + math.prod(len(axis.values) for axis in axes) > MOST_POINTS:
            raise BadInput(f"the sweep has more than {MOST_POINTS:,} combinations; take some of its values out")
        found += [_point(rest, axes, chosen) for chosen in itertools.product(*(axis.values for axis in axes))]
    return found


def _grids(swept: object) -> list[dict[str, Any]]:
    grids: list[Any] = swept if isinstance(swept, list) else [swept]
    if not all(isinstance(grid, dict) and grid for grid in grids) or not grids:
        example = "[sweep] with keys of the plan and lists of their values, such as client.num_examples = [1, 8]"
        raise BadInput(f"the plan has no table {example}")
    return grids


def axes_of(grid: dict[str, Any]) -> list[Axis]:
    """The keys of one grid with their values, in their order.

    Raises:
        BadInput: a key holds no list of values, an empty one, or stands there twice.
    """
    check_values(grid, lambda where: f"plan key {shortened(f'{SWEEP}.{where}')}")
    axes = [_axis(key, values) for key, values in _leaves(grid, "")]
    keys = [axis.key for axis in axes]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        raise BadInput(f"plan key {shortened(f'{SWEEP}.{twice}')} is given twice")
    return axes


def _leaves(grid: dict[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Keys with their lists: a.b may be written as a key with a dot in quotes, or as TOML's own dotted key."""
    for key, value in grid.items():
        here = f"{where}.{key}" if where else key
        if isinstance(value, dict):
            yield from _leaves(value, here)
        else:
            yield here, value


def _axis(key: str, values: Any) -> Axis:
    if not isinstance(values, list) or not values:
        needed = "a list of the values that it takes in turn is needed, at least one"
        raise BadInput(f"plan key {shortened(f'{SWEEP}.{key}')}: {needed} (got {shortened(values)})")
    wrap = takes_list(key)
    return Axis(key, tuple([v] if wrap and not isinstance(v, list) else v for v in values))


def takes_list(key: str) -> bool:
    """Whether a plan's key takes nothing but a list, so that one entry stands for a list of one."""
    annotation: Any = AuditPlan
    for step in key.split("."):
        section = next((k for k in _alternatives(annotation) if hasattr(k, "model_fields")), None)
        if section is None or step not in section.model_fields:
            return False
        annotation = section.model_fields[step].annotation
    kinds = [k for k in _alternatives(annotation) if k is not type(None)]
    return all(get_origin(kind) is tuple and Ellipsis in get_args(kind) for kind in kinds)


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The kinds of a union, without what annotates them."""
    if get_origin(annotation) is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for kind in get_args(annotation):
            yield from _alternatives(kind)
    else:
        yield annotation


def _point(rest: dict[str, Any], axes: list[Axis], chosen: tuple[Any, ...]) -> Point:
    table, values = copy.deepcopy(rest), {axis.key: value for axis, value in zip(axes, chosen, strict=True)}
    for key, value in values.items():
        try:
            put(table, key.split("."), copy.deepcopy(value), f"plan key {shortened(f'{SWEEP}.{key}')}")
        except BadInput as error:
            return Point(values, table, str(error))
    return Point(values, table)
