"""The folders of several machines as one."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.report.sweep import RESULTS
from fedspill.sweeping.exporting import export
from fedspill.sweeping.ledger import LEDGER_FILE, Counts, Ledger, read_trials


@dataclass(frozen=True)
class Merged:
    """What came of it.

    Attributes:
        differing: trials that two folders measured, with different results that depend on no clock; the first stays.
        written: the views.
    """

    counts: Counts
    differing: int
    written: list[Path]


def merge(folders: Sequence[Path], out: Path) -> Merged:
    """Writes to `out`, which may hold trials already, all trials of all folders, each once; these are not changed.

    Raises:
        BadInput: a folder holds no ledger, or is `out` itself.
    """
    for folder in folders:
        if folder.resolve() == out.resolve():
            raise BadInput(f"{str(folder)!r} is to be merged into itself; give another folder with --out")
    read = [read_trials(folder) for folder in folders]
    earlier = read_trials(out) if (out / LEDGER_FILE).is_file() else []
    with closing(Ledger(out)) as ledger:
        for rows in read:
            ledger.take(rows)
        with ledger.alone():
            written = export(out, ledger.rows())
        return Merged(ledger.counts(), _differing([earlier, *read]), written)


def _differing(folders: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    first, differing = dict[str, Mapping[str, Any]](), set[str]()
    for row in (row for rows in folders for row in rows if row["state"] == "done" and not row["timed"]):
        held = first.setdefault(row["digest"], row)
        if any(held[name] != row[name] for name in RESULTS):
            differing.add(row["digest"])
    return len(differing)
