"""The trials of a folder in SQLite: each once, claimed by one process at a time, finished only by who holds it.

Every change is one transaction of SQLite's, so that a kill leaves it done or not done; nothing else is locked.
"""

import json
import sqlite3
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.report.sweep import Outcome, SweepRow
from fedspill.sweeping.leases import Holder, is_alive
from fedspill.sweeping.trials import SweepTrial

LEDGER_FILE = "sweep.sqlite"
VERSION = 1
"""Of the tables, as `PRAGMA user_version` has it."""
BUSY_SECONDS = 60.0
"""That a process waits for another one's transaction."""
MOST_CRASHES = 3
"""Processes that a trial may take with it before it counts as failed."""
OUTCOMES = tuple(k for k in Outcome.model_fields if k != "state")
TABLE = f"""
CREATE TABLE trials (
    digest TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    point TEXT NOT NULL,
    plan TEXT NOT NULL,
    attack TEXT NOT NULL,
    defence TEXT NOT NULL,
    state TEXT NOT NULL,
    token TEXT, host TEXT, pid INTEGER, born TEXT, beat REAL,
    crashes INTEGER NOT NULL DEFAULT 0,
    {", ".join(f'"{name}"' for name in OUTCOMES)}
) WITHOUT ROWID
"""
INDEX = "CREATE INDEX queue ON trials (state, number)"
"""So that the next trial is found without reading all of them."""
FREE = "state = 'waiting', token = NULL, host = NULL, pid = NULL, born = NULL, beat = NULL"


@dataclass(frozen=True)
class Claimed:
    """A trial that this process holds.

    Attributes:
        plan: as JSON.
    """

    digest: str
    plan: str


@dataclass(frozen=True)
class Counts:
    """How many trials of a call are in which state.

    Attributes:
        running: held by anybody, this process among them.
    """

    waiting: int = 0
    running: int = 0
    done: int = 0
    refused: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.waiting + self.running + self.ended

    @property
    def ended(self) -> int:
        """Those of which nothing more is to come."""
        return self.done + self.refused + self.failed


class Ledger:
    """One process's view of a folder's trials; one connection, for one thread.

    Args:
        folder: is made if need be.

    Raises:
        BadInput: its file is no ledger, or one of another version.
    """

    def __init__(self, folder: Path, holder: Holder | None = None) -> None:
        self.folder, self.holder = folder, holder or Holder()
        folder.mkdir(parents=True, exist_ok=True)
        self._sql = sqlite3.connect(folder / LEDGER_FILE, timeout=BUSY_SECONDS, isolation_level=None)
        self._sql.row_factory = sqlite3.Row
        with readable(folder / LEDGER_FILE):
            self._sql.execute("PRAGMA journal_mode = WAL")
            with self._transaction():
                if is_new(self._sql, folder / LEDGER_FILE):
                    self._sql.execute(TABLE)
                    self._sql.execute(INDEX)
                    self._sql.execute(f"PRAGMA user_version = {VERSION}")
                for name in OUTCOMES:  # what this version keeps of a trial and an earlier one did not
                    if name not in self._columns():
                        self._sql.execute(f'ALTER TABLE trials ADD COLUMN "{name}"')
            self._sql.execute("CREATE TEMP TABLE mine (digest TEXT PRIMARY KEY)")

    def _columns(self) -> set[str]:
        return {found["name"] for found in self._sql.execute("PRAGMA table_info(trials)")}

    @contextmanager
    def _transaction(self) -> Generator[None]:
        """Writes from the start, so that what is read inside stays true until the end."""
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            self._sql.execute("ROLLBACK")
            raise

    @contextmanager
    def alone(self) -> Generator[None]:
        """Inside, no other process changes the folder's trials, or is inside likewise."""
        with self._transaction():
            yield

    def close(self) -> None:
        """Gives the file back."""
        self._sql.close()

    def add(self, trials: Iterable[SweepTrial]) -> None:
        """Makes these the trials of this process; those that the folder holds already keep what came of them."""
        rows = [
            (t.digest, t.number, _json(t.values), _json(t.plan), t.attack, t.defence, _state(t), t.refused)
            for t in trials
        ]
        with self._transaction():
            self._sql.executemany(
                "INSERT INTO trials (digest, number, point, plan, attack, defence, state, error)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE"
                " SET number = excluded.number, point = excluded.point",
                rows,
            )
            self._sql.executemany("INSERT OR IGNORE INTO mine VALUES (?)", [(row[0],) for row in rows])

    def retry(self) -> int:
        """Has this process's failed trials wait again; how many."""
        empty = ", ".join(f'"{name}" = NULL' for name in OUTCOMES)
        with self._transaction():
            return self._sql.execute(
                f"UPDATE trials SET {FREE}, crashes = 0, {empty} WHERE state = 'failed' AND digest IN mine"
            ).rowcount

    def claim(self) -> Claimed | None:
        """The next trial that nobody holds, held by this process from now on; None if there is none.

        Trials whose holder is dead are given back first.
        """
        now, held = time.time(), self.holder
        with self._transaction():
            self._give_back_dead(now)
            found = self._sql.execute(
                "SELECT digest, plan FROM trials WHERE state = 'waiting' AND digest IN mine ORDER BY number LIMIT 1"
            ).fetchone()
            if found is None:
                return None
            self._sql.execute(
                "UPDATE trials SET state = 'running', token = ?, host = ?, pid = ?, born = ?, beat = ?"
                " WHERE digest = ?",
                (held.token, held.host, held.pid, held.born, now, found["digest"]),
            )
        return Claimed(found["digest"], found["plan"])

    def _give_back_dead(self, now: float) -> None:
        holders = self._sql.execute(
            "SELECT DISTINCT token, host, pid, born, max(beat) AS beat FROM trials WHERE state = 'running'"
            " AND token <> ? GROUP BY token, host, pid, born",
            (self.holder.token,),
        ).fetchall()
        for row in holders:
            if not is_alive(Holder(row["token"], row["host"], row["pid"], row["born"]), row["beat"], now):
                self._free("token = ?", row["token"])

    def _free(self, condition: str, *values: str) -> None:
        self._sql.execute(f"UPDATE trials SET {FREE} WHERE state = 'running' AND {condition}", values)

    def beat(self) -> None:
        """A sign of life for all that this process holds."""
        self._sql.execute(
            "UPDATE trials SET beat = ? WHERE state = 'running' AND token = ?", (time.time(), self.holder.token)
        )

    def finish(self, digest: str, outcome: Outcome) -> bool:
        """Writes down what came of a trial, if this process still holds it; whether it does."""
        values = outcome.model_dump()
        sets = ", ".join(f'"{name}" = ?' for name in OUTCOMES)
        done = self._sql.execute(
            f"UPDATE trials SET {FREE}, state = ?, {sets} WHERE digest = ? AND state = 'running' AND token = ?",
            (values["state"], *(values[name] for name in OUTCOMES), digest, self.holder.token),
        )
        return done.rowcount == 1

    def lost(self, digest: str, reason: str) -> bool:
        """Notes that a trial's process died: it is run again, but not for ever; whether it has failed by that.

        Args:
            reason: how it died, for the last time.
        """
        with self._transaction():
            self._sql.execute(
                "UPDATE trials SET crashes = crashes + 1 WHERE digest = ? AND state = 'running' AND token = ?",
                (digest, self.holder.token),
            )
            (crashes,) = self._sql.execute("SELECT crashes FROM trials WHERE digest = ?", (digest,)).fetchone()
            if crashes < MOST_CRASHES:
                self._free("digest = ? AND token = ?", digest, self.holder.token)
                return False
        why = f"its process died {MOST_CRASHES} times, the last time by: {reason}"
        return self.finish(digest, Outcome(state="failed", error=why))

    def let_go(self) -> None:
        """Gives back all that this process holds."""
        self._free("token = ?", self.holder.token)

    def counts(self) -> Counts:
        """Of this process's trials."""
        found = self._sql.execute("SELECT state, count(*) FROM trials WHERE digest IN mine GROUP BY state").fetchall()
        return Counts(**dict(found))

    def is_open(self) -> bool:
        """Whether any of this process's trials is waiting, or held by anybody."""
        found = self._sql.execute(
            "SELECT EXISTS (SELECT 1 FROM trials WHERE state IN ('waiting', 'running') AND digest IN mine)"
        )
        return bool(found.fetchone()[0])

    def rows(self) -> list[SweepRow]:
        """All trials of the folder, in the order of the grid."""
        with readable(self.folder / LEDGER_FILE):
            return [_row(found) for found in self._sql.execute("SELECT * FROM trials ORDER BY number, digest")]

    def take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Adds trials of other folders: what is done stays, what nobody finished waits."""
        with self._transaction():
            for row in rows:
                self._take(row)

    def _take(self, row: Mapping[str, Any]) -> None:
        names = ("digest", "number", "point", "plan", "attack", "defence", "crashes", "state", *OUTCOMES)
        values = [_settled(row) if name == "state" else row[name] for name in names]
        held = self._sql.execute("SELECT state FROM trials WHERE digest = ?", (row["digest"],)).fetchone()
        if held is None or _worth(held["state"]) < _worth(row["state"]):
            quoted = ", ".join(f'"{name}"' for name in names)
            marks = ", ".join("?" * len(names))
            self._sql.execute(f"INSERT OR REPLACE INTO trials ({quoted}) VALUES ({marks})", values)
        self._sql.execute("INSERT OR IGNORE INTO mine VALUES (?)", (row["digest"],))


def read_trials(folder: Path) -> list[dict[str, Any]]:
    """The trials of a folder as they are stored, which is not changed; None where an earlier version kept nothing.

    Raises:
        BadInput: it holds no ledger, or a broken one.
    """
    path = folder / LEDGER_FILE
    if not path.is_file():
        raise BadInput(f"{str(folder)!r} holds no {LEDGER_FILE}; give the output folder of a sweep")
    with readable(path), closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as sql:
        sql.row_factory = sqlite3.Row
        if is_new(sql, path):
            return []
        found = sql.execute("SELECT * FROM trials ORDER BY number, digest").fetchall()
        return [{**dict.fromkeys(OUTCOMES), **dict(row)} for row in found]


def is_new(sql: sqlite3.Connection, path: Path) -> bool:
    """Whether a database is empty and not yet a ledger.

    Raises:
        BadInput: it is somebody else's, or a ledger of another version.
    """
    version = sql.execute("PRAGMA user_version").fetchone()[0]
    tables = sql.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if version != VERSION and (version or tables):
        raise BadInput(f"{str(path)!r} is no ledger of version {VERSION} of fedspill's sweeps")
    return version != VERSION


@contextmanager
def readable(path: Path) -> Generator[None]:
    """Inside, what SQLite says of a broken file is BadInput."""
    try:
        yield
    except sqlite3.Error as error:
        raise BadInput(f"{str(path)!r} cannot be used as the ledger of a sweep: {error}") from None


def _state(trial: SweepTrial) -> str:
    return "waiting" if trial.refused is None else "refused"


def _settled(row: Mapping[str, Any]) -> str:
    return "waiting" if row["state"] == "running" else row["state"]


def _worth(state: str) -> int:
    """By which of two records of one trial one is kept: what was measured before what was not."""
    return ("running", "waiting", "failed", "refused", "done").index(state)


def _row(found: sqlite3.Row) -> SweepRow:
    state = found["state"]
    outcome = None
    if state in ("done", "refused", "failed"):
        told = {name: found[name] for name in OUTCOMES if found[name] is not None}
        outcome = Outcome(state=state, **told)
    shared = {name: found[name] for name in ("digest", "number", "attack", "defence")}
    return SweepRow(values=json.loads(found["point"]), state=state, outcome=outcome, **shared)


def _json(table: Any) -> str:
    return json.dumps(table, default=str)
