"""The plan of an audit: TOML or a mapping, checked key by key.

- `sections`: the schema.
- `training`: what its section `client` says of optimisers and schedules.
- `file`: TOML files and `--set`, with errors that name the key.
- `values`: FIELD=VALUE pairs.
- `defaults`: what a plan that is silent takes.
- `from_python`: protocols and optimisers that Python states, in a plan's keys.
- `build`: the network and the device that a plan names.
"""

from fedspill.plan.file import parse_as, parse_plan, read_as, read_plan
from fedspill.plan.sections import (
    AttackEntry,
    AuditPlan,
    ModelSection,
    PoolSection,
    Section,
    parse_decibels,
    parse_seconds,
)

__all__ = [
    "AttackEntry",
    "AuditPlan",
    "ModelSection",
    "PoolSection",
    "Section",
    "parse_as",
    "parse_decibels",
    "parse_plan",
    "parse_seconds",
    "read_as",
    "read_plan",
]
