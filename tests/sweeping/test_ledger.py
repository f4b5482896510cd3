"""The trials of a folder: claimed by one, finished by who holds them, given back by the dead."""

import os
import platform
import signal
import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path

import pytest

from fedspill.core.errors import BadInput
from fedspill.report.sweep import Outcome
from fedspill.sweeping import leases, ledger
from fedspill.sweeping.grid import points
from fedspill.sweeping.leases import LEASE_SECONDS, Holder, born_of, is_alive
from fedspill.sweeping.ledger import LEDGER_FILE, Ledger, read_trials
from fedspill.sweeping.merging import merge
from fedspill.sweeping.trials import trials_of
from tests.support.sweeps import TABLE, in_a_child, swept

TRIALS = trials_of(points(TABLE))
DONE = Outcome(state="done", verdict="leaks", leaked=1, examples=2, worst=float("inf"), mean=0.1, timed=3)


@pytest.fixture
def opened(tmp_path: Path) -> Generator[Callable[[], Ledger]]:
    every = list[Ledger]()

    def another(holder: Holder | None = None) -> Ledger:
        made = Ledger(tmp_path / "out", holder)
        made.add(TRIALS)
        every.append(made)
        return made

    yield another
    for made in every:
        made.close()


def test_a_trial_is_claimed_once_and_kept_as_it_was_finished(opened) -> None:
    one, other = opened(), opened()
    claimed = [holder.claim() for _ in range(12) for holder in (one, other)]
    assert [c.digest for c in claimed] == [t.digest for t in TRIALS]
    assert one.claim() is None
    assert (one.counts().running, one.counts().total) == (24, 24)
    assert one.finish(TRIALS[0].digest, DONE)
    row = other.rows()[0]
    assert (row.state, row.outcome, dict(row.values)) == ("done", DONE, dict(TRIALS[0].values))
    opened().add(TRIALS)  # as the next run does
    assert other.rows()[0] == row


def test_only_who_holds_a_trial_finishes_it(opened) -> None:
    one, other = opened(), opened()
    digest = one.claim().digest
    assert not other.finish(digest, DONE)
    one.let_go()
    assert not one.finish(digest, DONE)
    assert other.claim().digest == digest
    assert not one.finish(digest, DONE)
    assert not one.lost(digest, "nothing")
    assert other.counts().running == 1
    assert other.finish(digest, DONE)


def test_what_the_dead_held_is_claimed_again_and_what_the_living_hold_is_not(opened) -> None:
    def claims() -> None:
        ledger = opened()
        ledger.claim()
        ledger.claim()

    child = in_a_child(claims)
    os.waitpid(child, 0)
    one = opened()
    assert one.counts().running == 2
    assert one.claim().digest == TRIALS[0].digest
    assert opened().claim().digest == TRIALS[1].digest
    assert opened().claim().digest == TRIALS[2].digest


def test_who_is_alive() -> None:
    now = time.time()
    assert is_alive(Holder(), now, now)
    assert not is_alive(Holder(), now - LEASE_SECONDS - 1, now)
    assert not is_alive(Holder(born="of another process that had this number"), now, now)
    assert is_alive(Holder(host="elsewhere", pid=2**22 + 1, born="?"), now, now)
    assert not is_alive(Holder(host="elsewhere", pid=1, born="?"), now - LEASE_SECONDS - 1, now)
    assert Holder().token != Holder().token


def test_a_process_that_ended_and_was_not_asked_about_is_dead() -> None:
    child = in_a_child(lambda: time.sleep(60))
    holder, now = Holder(pid=child, born=born_of(child)), time.time()
    assert holder.born
    assert is_alive(holder, now, now)
    os.kill(child, signal.SIGKILL)
    until = time.monotonic() + 10
    while is_alive(holder, now, now) and time.monotonic() < until:
        time.sleep(0.01)
    assert not is_alive(holder, now, now)
    os.waitpid(child, 0)
    assert not is_alive(holder, now, now)


def test_another_users_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, what: int) -> None:
        raise PermissionError

    monkeypatch.setattr(leases.os, "kill", refuse)
    assert is_alive(Holder(), 0.0, 0.0)


def test_a_beat_renews_the_lease_of_what_one_holds(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = opened(Holder(host="elsewhere"))
    elsewhere.claim()
    now = time.time()
    monkeypatch.setattr(ledger.time, "time", lambda: now + LEASE_SECONDS - 1)
    elsewhere.beat()
    monkeypatch.setattr(ledger.time, "time", lambda: now + LEASE_SECONDS + 1)
    one = opened()
    assert one.claim().digest == TRIALS[1].digest
    monkeypatch.setattr(ledger.time, "time", lambda: now + 2 * LEASE_SECONDS)
    one.beat()
    assert opened().claim().digest == TRIALS[0].digest


def test_a_trial_that_takes_its_processes_with_it_fails_in_the_end(opened) -> None:
    one = opened()
    for last in (False, False, True):
        digest = one.claim().digest
        assert digest == TRIALS[0].digest
        assert one.lost(digest, "signal 9") == last
    assert one.claim().digest == TRIALS[1].digest
    row = one.rows()[0]
    assert row.state == "failed"
    assert row.outcome.error == "its process died 3 times, the last time by: signal 9"
    assert one.retry() == 1
    assert one.claim().digest == TRIALS[0].digest
    one.let_go()
    assert one.rows()[0].outcome is None


def test_a_process_runs_its_own_trials_alone(opened, tmp_path: Path) -> None:
    opened()
    with closing(Ledger(tmp_path / "out")) as few:
        few.add(TRIALS[20:22])
        assert (few.counts().total, len(few.rows())) == (2, 24)
        assert [few.claim().digest for _ in range(2)] == [t.digest for t in TRIALS[20:22]]
        assert few.claim() is None


def test_processes_that_claim_at_once_share_the_trials_out(tmp_path: Path) -> None:
    def works() -> None:
        with closing(Ledger(tmp_path)) as own:
            own.add(TRIALS)
            while (claimed := own.claim()) is not None:
                told = Outcome(state="done", verdict=str(os.getpid()))
                assert own.finish(claimed.digest, told)

    children = [in_a_child(works) for _ in range(4)]
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    with closing(Ledger(tmp_path)) as read:
        rows = read.rows()
    assert [r.digest for r in rows] == [t.digest for t in TRIALS]
    assert {r.state for r in rows} == {"done"}


@pytest.mark.parametrize("content", [b"no ledger at all", b"SQLite format 3\0" + b"x" * 200])
def test_a_broken_ledger_is_bad_input(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEDGER_FILE).write_bytes(content)
    with pytest.raises(BadInput, match="cannot be used as the ledger of a sweep"):
        Ledger(tmp_path)


@pytest.mark.parametrize("statement", ["CREATE TABLE other (x)", "PRAGMA user_version = 2"])
def test_someone_elses_database_is_bad_input_and_is_not_changed(tmp_path: Path, statement: str) -> None:
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as other:
        other.execute(statement)
    for use in (Ledger, read_trials):
        with pytest.raises(BadInput, match="is no ledger of version 1"):
            use(tmp_path)
    with closing(sqlite3.connect(tmp_path / LEDGER_FILE)) as other:
        names = [name for (name,) in other.execute("SELECT name FROM sqlite_master")]
    assert "trials" not in names


def test_a_ledger_of_before_a_column_was_kept_is_gone_on_with_and_merged(tmp_path: Path) -> None:
    made = swept(tmp_path / "old").counts
    with closing(sqlite3.connect(tmp_path / "old" / LEDGER_FILE)) as sql:
        sql.execute('ALTER TABLE trials DROP COLUMN "guessed"')
    merge([tmp_path / "old"], tmp_path / "merged")
    for folder in (tmp_path / "old", tmp_path / "merged"):
        assert swept(folder).counts == made
        with closing(Ledger(folder)) as ledger:
            assert {row.outcome.guessed for row in ledger.rows() if row.outcome} == {None}


def test_a_folder_without_a_ledger_holds_no_trials(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"holds no sweep\.sqlite"):
        read_trials(tmp_path)


def test_the_host_is_this_one() -> None:
    assert Holder().host == platform.node()
