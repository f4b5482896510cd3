"""Settings in groups, named in one flat list."""

from dataclasses import dataclass, replace

import pytest

from fedspill.core.errors import BadInput
from fedspill.core.settings import (
    Group,
    described,
    field_names,
    flat_fields,
    flat_path,
    grouped,
    plain_fields,
    with_fields,
)


@dataclass(frozen=True)
class Steps(Group):
    count: int = 3
    size: float = 0.5

    def __post_init__(self) -> None:
        if self.count > 9 and self.size > 1:
            raise BadInput(f"count={self.count} does not go with size={self.size}")


@dataclass(frozen=True)
class Inner:
    steps: Steps = Steps(7)
    sides: tuple[int, ...] = (1, 2)


@dataclass(frozen=True)
class Outer:
    first: str = "a"
    steps: Steps = Steps()
    inner: Inner = Inner()


def test_fields_of_a_group_stand_in_its_place_at_every_depth() -> None:
    assert field_names(Outer) == ["first", "count", "size", "inner"]
    assert flat_fields(Outer()) == {"first": "a", "count": 3, "size": 0.5, "inner": Inner()}
    assert plain_fields(Outer())["inner"] == {"count": 7, "size": 0.5, "sides": (1, 2)}
    assert described(Outer()) == "Outer(first='a', count=3, size=0.5, inner=Inner(count=7, size=0.5, sides=(1, 2)))"


def test_flat_names_are_moved_into_their_groups() -> None:
    assert grouped(Outer, {"size": 1, "first": "b", "inner": {"count": 2}, "other": 0}) == {
        "steps": {"size": 1},
        "first": "b",
        "inner": {"steps": {"count": 2}},
        "other": 0,
    }
    assert flat_path(Outer, ("steps", "size")) == ("size",)
    assert flat_path(Outer, ("inner", "sides", 0)) == ("inner", "sides", 0)


def test_fields_change_by_their_flat_names_all_of_a_group_together() -> None:
    assert with_fields(Outer(), first="b", size=0.1) == Outer("b", Steps(3, 0.1))
    assert with_fields(Outer(), inner=Inner(sides=())) == Outer(inner=Inner(sides=()))
    large = with_fields(Outer(), count=10, size=0.2)
    assert with_fields(large, count=1, size=5.0) == replace(large, steps=Steps(1, 5.0)), "no state between is checked"
    with pytest.raises(BadInput, match=r"count=10 does not go with size=5"):
        with_fields(large, size=5.0)
    with pytest.raises(BadInput, match="Outer has no field steps; it has first, count, size, inner"):
        with_fields(Outer(), steps=Steps())
