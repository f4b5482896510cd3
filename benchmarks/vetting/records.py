"""A line of JSON for every case: a run that is ended loses the case that it was at, and goes on there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.common.places import RESULTS

FOLDER = RESULTS / "vetting"
CASES = FOLDER / "cases.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """All cases, the latest of a name; a line that was cut off is passed over."""
    found = dict[str, dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found[record["case"]] = record
    return list(found.values())


def append(path: Path, record: Mapping[str, Any]) -> None:
    """One case more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    with path.open("a", encoding="utf-8") as file:
        file.write(("" if not text or text.endswith("\n") else "\n") + json.dumps(record) + "\n")
