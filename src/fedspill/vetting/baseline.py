"""Findings that a person accepted, in a JSON file, so that they raise no alarm again unless they become more severe."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from fedspill.core.errors import BadInput
from fedspill.core.roles import Finding
from fedspill.core.tensor_files import write_whole
from fedspill.report.vetting import fingerprint

FORMAT = 1
SLACK = 0.05
"""By so much a severity may rise, as it follows numbers that change from round to round."""


def read_baseline(path: str | Path) -> dict[str, float]:
    """Fingerprint to the severity at which a finding was accepted; {} if there is no such file yet.

    Raises:
        BadInput: the file is no baseline.
    """
    file = Path(path)
    if not file.exists():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            raise BadInput(f"baseline {str(path)!r} is of format {table['format']!r}; {FORMAT} is needed")
        entries = cast(list[Mapping[str, Any]], table["accepted"])
        return {str(entry["fingerprint"]): float(entry["severity"]) for entry in entries}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"baseline {str(path)!r} is none that `fedspill vet --accept` wrote") from None


def write_baseline(path: str | Path, findings: Iterable[Finding]) -> None:
    """Writes what is accepted from now on, whole or not at all."""
    rows = [
        {"fingerprint": fingerprint(f), "rule": f.rule_id, "where": f.where, "severity": round(f.severity, 6)}
        for f in findings
    ]
    write_whole(Path(path), json.dumps({"format": FORMAT, "accepted": rows}, indent=1, ensure_ascii=False) + "\n")


def is_accepted(finding: Finding, accepted: Mapping[str, float]) -> bool:
    """Whether it was accepted, at no lower a severity."""
    level = accepted.get(fingerprint(finding))
    return level is not None and finding.severity <= level + SLACK
