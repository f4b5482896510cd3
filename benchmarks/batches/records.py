"""Where the figures are kept: one JSON a part, and a table in Markdown of all that are there."""

import argparse
from collections.abc import Mapping
from typing import Any

from benchmarks.common import places, records

RESULTS = places.RESULTS / "batches"


def keep(args: argparse.Namespace, part: str, cases: Mapping[str, Mapping[str, Any]]) -> None:
    """Adds cases to a part's record, so that a measurement may be made in pieces, and prints them."""
    path = RESULTS / f"{part}.json"
    before = records.read(path)["cases"] if path.exists() else {}
    merged = {**before, **{k: dict(v) for k, v in cases.items()}}
    records.write(path, {"conditions": records.conditions(args), "cases": merged})
    (RESULTS / f"{part}.md").write_text("\n".join(table(merged)) + "\n")
    print("\n".join(table(cases)), flush=True)


def table(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One row for each case."""
    columns = list(dict.fromkeys(k for case in cases.values() for k in case))
    head = ["| case | " + " | ".join(c.replace("_", " ") for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return [
        *head,
        *(f"| {name} | " + " | ".join(str(c.get(k, "")) for k in columns) + " |" for name, c in cases.items()),
    ]
