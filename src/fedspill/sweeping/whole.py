"""A whole sweep: a plan's grid into a folder, run, and its rows exported."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.sweeping.driving import Follower, Shard, Unwatched, drive
from fedspill.sweeping.engines.engine import Engine
from fedspill.sweeping.exporting import export
from fedspill.sweeping.grid import points
from fedspill.sweeping.ledger import LEDGER_FILE, Counts, Ledger, readable
from fedspill.sweeping.trials import trials_of


@dataclass(frozen=True)
class Swept:
    """What came of a sweep.

    Attributes:
        counts: of the trials of this call.
        others: trials of the folder that the plan does not ask for: of an earlier plan, or of another shard.
        written: the views.
    """

    counts: Counts
    others: int
    written: list[Path]


def run_sweep(
    table: Mapping[str, Any],
    out: Path,
    make: Callable[[], Engine],
    *,
    shard: Shard | None = None,
    retry: bool = False,
    fresh: bool = False,
    follower: Follower | None = None,
) -> Swept:
    """Runs every trial of a plan's grid that the folder does not hold the result of, and writes the views.

    Any number of processes may do so in one folder at the same time: each trial is run by one of them. What was
    killed at any moment is run again, by them or by the next call.

    Args:
        table: a plan as it was read, with its table `sweep`.
        out: the folder.
        make: the engine that runs the trials.
        shard: runs that part alone; None is all of it.
        retry: runs again what failed; what was refused stays.
        fresh: forgets what the folder holds.

    Raises:
        BadInput: the grid cannot be read, none of it is a plan, or the folder's ledger cannot be used.
    """
    trials = [trial for trial in trials_of(points(table)) if shard is None or shard.holds(trial)]
    if not trials:
        raise BadInput("this shard holds no trial: there are fewer trials than shards")
    if fresh:
        forget(out)
    with readable(out / LEDGER_FILE), closing(Ledger(out)) as ledger:
        ledger.add(trials)
        if retry:
            ledger.retry()
        counts = drive(ledger, make, follower or Unwatched())
        with ledger.alone():  # two processes that end at once write one after the other
            rows = ledger.rows()
            return Swept(counts, len(rows) - counts.total, export(out, rows))


def forget(folder: Path) -> None:
    """Removes the ledger of a folder."""
    for end in ("", "-wal", "-shm"):
        (folder / f"{LEDGER_FILE}{end}").unlink(missing_ok=True)
