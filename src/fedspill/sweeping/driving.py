"""Trials handed to an engine, and what they gave written down, until none is left that anybody could run."""

import math
import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fedspill.core.errors import BadInput
from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines.engine import Ended, Engine, Lost
from fedspill.sweeping.leases import BEAT_SECONDS
from fedspill.sweeping.ledger import Counts, Ledger
from fedspill.sweeping.trials import SweepTrial

POLL_SECONDS = 0.5
"""How long an engine is waited for before others' trials are looked at again."""


@runtime_checkable
class Follower(Protocol):
    """Whoever shows how far a sweep is."""

    def counts(self, counts: Counts, own: int) -> None:
        """How many trials are in which state, and how many this process runs."""
        ...

    def ended(self, digest: str, outcome: Outcome) -> None:
        """What came of one."""
        ...

    def message(self, text: str) -> None:
        """Something that a person should read."""
        ...


class Unwatched:
    """Shows nothing."""

    def counts(self, counts: Counts, own: int) -> None:
        """Shows nothing."""

    def ended(self, digest: str, outcome: Outcome) -> None:
        """Shows nothing."""

    def message(self, text: str) -> None:
        """Shows nothing."""


@dataclass(frozen=True)
class Shard:
    """One part of several, for machines that share nothing.

    Attributes:
        number: from 1.
        of: how many there are.
    """

    number: int = 1
    of: int = 1

    def holds(self, trial: SweepTrial) -> bool:
        """Whether a trial is of this part."""
        return trial.number % self.of == self.number - 1


def parse_shard(text: str) -> Shard:
    """A part such as "2/8".

    Raises:
        BadInput: it is none.
    """
    number, slash, of = text.partition("/")
    if slash and number.isdecimal() and of.isdecimal() and len(of) < 10 and 1 <= int(number) <= int(of):
        return Shard(int(number), int(of))
    raise BadInput(f"--shard {text[:80]!r}: write i/n with i from 1 to n, such as 2/8")


def drive(ledger: Ledger, make: Callable[[], Engine], follower: Follower) -> Counts:
    """Runs the ledger's trials of this process, beside whoever else runs them; how they stand at the end.

    Args:
        ledger: with its trials added.
        make: the engine, made only if there is something to run; is closed.
    """
    follower.counts(ledger.counts(), 0)
    if not ledger.is_open():
        return ledger.counts()
    engine = make()
    with _beating(ledger):
        try:
            _until_none_is_left(ledger, engine, follower)
        finally:
            engine.close()
            ledger.let_go()
    return ledger.counts()


def _until_none_is_left(ledger: Ledger, engine: Engine, follower: Follower) -> None:
    told = -math.inf
    while True:
        while engine.has_room() and (claimed := ledger.claim()) is not None:
            engine.start(claimed.digest, claimed.plan)
        if time.monotonic() - told > POLL_SECONDS:  # counting reads every trial
            follower.counts(ledger.counts(), engine.running)
            told = time.monotonic()
        if not engine.running:
            if not ledger.is_open():
                return
            time.sleep(POLL_SECONDS)  # the rest is held by other processes: they end it, or die
        for ended in engine.ended(POLL_SECONDS):
            _write_down(ledger, ended, follower)


def _write_down(ledger: Ledger, ended: Ended, follower: Follower) -> None:
    if isinstance(ended.result, Lost):
        if ledger.lost(ended.digest, ended.result.reason):
            follower.ended(ended.digest, Outcome(state="failed", error=ended.result.reason))
        else:
            follower.message(f"a trial's process died ({ended.result.reason}); the trial is run again")
    elif ledger.finish(ended.digest, ended.result):
        follower.ended(ended.digest, ended.result)


@contextmanager
def _beating(ledger: Ledger) -> Generator[None]:
    """Inside, the process gives signs of life, whatever its first thread is at."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(ledger, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(ledger: Ledger, stop: threading.Event) -> None:
    with closing(Ledger(ledger.folder, ledger.holder)) as own:  # a connection belongs to one thread
        while not stop.wait(BEAT_SECONDS):
            with suppress(BadInput, OSError):
                own.beat()
