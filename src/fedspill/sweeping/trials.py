"""One combination as a trial: its plan resolved, its digest, and what it is called."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.tensor_files import sha256
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import AttackEntry, AuditPlan
from fedspill.sweeping.grid import Point

UNREAD = "?"
"""Attack and defence of a combination that is no plan."""


@dataclass(frozen=True)
class SweepTrial:
    """What is to be run.

    Attributes:
        digest: of the resolved plan, and of the files of weights and data that it names.
        number: its place in the grid, from 0.
        values: what the sweep set.
        plan: the combination as a person would have written it, which is parsed again by whoever runs it.
        refused: why it is no plan, if it is none.
    """

    digest: str
    number: int
    values: Mapping[str, Any]
    plan: Mapping[str, Any]
    attack: str
    defence: str
    refused: str | None = None


def trials_of(points: Iterable[Point]) -> list[SweepTrial]:
    """Each combination once: of two that resolve to the same plan the first one stays.

    Raises:
        BadInput: not one of them is a plan; the message is the first one's.
    """
    files, found = dict[Path, str](), dict[str, SweepTrial]()
    for point in points:
        trial = _trial(len(found), point, files)
        found.setdefault(trial.digest, trial)
    trials = list(found.values())
    if all(trial.refused is not None for trial in trials):
        raise BadInput(trials[0].refused or "the sweep is empty")
    return trials


def _trial(number: int, point: Point, files: dict[Path, str]) -> SweepTrial:
    if point.refused is not None:
        return _refused(number, point, point.refused)
    try:
        plan = parse_plan(point.table)
    except FedspillError as error:
        return _refused(number, point, str(error))
    attack = ", ".join(map(_label, plan.audit.attacks))
    if plan.server.tampering is not None:
        attack += f" on {_label(plan.server.tampering)}"
    defence = ", ".join(map(_label, plan.defences)) or "none"
    return SweepTrial(digest_of(plan, files), number, point.values, point.table, attack, defence)


def _label(entry: AttackEntry) -> str:
    """As reports call it, but for the preset that all have."""
    return entry.label.replace(":paper", "", 1) if entry.preset == "paper" else entry.label


def _refused(number: int, point: Point, reason: str) -> SweepTrial:
    digest = sha256("refused", _canonical(point.table), _canonical(dict(point.values)))
    return SweepTrial(digest, number, point.values, point.table, UNREAD, UNREAD, reason)


def digest_of(plan: AuditPlan, files: dict[Path, str] | None = None) -> str:
    """Hex digest by which a trial is known: every key with its default filled in, and the contents of named files.

    Args:
        files: digests of files that were read already; is added to.
    """
    seen = {} if files is None else files
    pools = [plan.data, *([] if plan.server.public is None else [plan.server.public])]
    named = [plan.model.weights, *(pool.root for pool in pools)]
    contents = [_file(Path(name), seen) for name in named if name is not None and Path(name).is_file()]
    return sha256(_canonical(plan.model_dump(mode="json")), *contents)


def _file(path: Path, seen: dict[Path, str]) -> str:
    if path not in seen:
        seen[path] = sha256(path)
    return seen[path]


def _canonical(table: Mapping[str, Any]) -> str:
    return json.dumps(table, sort_keys=True, separators=(",", ":"), default=str)
