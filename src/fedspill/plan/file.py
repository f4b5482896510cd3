"""Plans from TOML files and plain values, checked key by key; errors name the key, the value and what is allowed."""

from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from fedspill.core.errors import BadInput
from fedspill.plan.sections import AuditPlan, ClientSection, Section
from fedspill.plan.tables import table_of
from fedspill.plan.values import Naming, check_values, plan_key, shortened

MOST_TOLD = 8
"""Mistakes of one plan that are told at once."""
P = TypeVar("P", bound=Section)


def parse_plan(table: dict[str, Any]) -> AuditPlan:
    """A plan from plain values.

    Raises:
        BadInput: names the key, the value, and what is allowed.
    """
    return parse_as(AuditPlan, table)


def parse_as(kind: type[P], table: dict[str, Any], named: Naming = plan_key, *, shape_only: bool = False) -> P:
    """A plan of any kind from plain values.

    Args:
        named: what messages call a key.
        shape_only: leave out what takes PyTorch to tell; it is told when the plan is parsed again.

    Raises:
        BadInput: names the key, the value, and what is allowed.
    """
    check_values(table, named)
    try:
        plan = kind.model_validate(table)
    except ValidationError as error:
        raise BadInput("; ".join(_explain(e, kind, named) for e in error.errors()[:MOST_TOLD])) from None
    except RecursionError:
        raise BadInput("the plan nests too deeply") from None
    if not shape_only:
        _check_training(plan, named)
    return plan


def _check_training(plan: Section, named: Naming) -> None:
    """Raises BadInput if a client's optimiser, schedule, augmentation or loss is none."""
    where, client = ("client", plan.client) if isinstance(plan, AuditPlan) else ("", plan)
    if not isinstance(client, ClientSection) or not client.model_fields_set:
        return
    from fedspill.plan.training import training_of

    try:
        training_of(client)
    except ValueError as error:
        raise BadInput(f"{named(where)}: {error}") from None


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
    return parse_as(kind, table_of(path, settings))
