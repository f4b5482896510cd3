"""In processes of this machine, each on one thread, as many at a time as its memory holds.

Every process has an executor to itself: where one dies, the trial that it ran is known, and no other one is lost.
"""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

import torch

from fedspill.core.memory import free_bytes
from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines.engine import Ended, Lost
from fedspill.sweeping.running import run_trial

FIRST_GUESS = 1_000_000_000
"""Bytes that a trial takes, until one has ended: PyTorch alone holds about 0.4 GB."""


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Local:
    """Processes that are started once and run one trial after the other.

    Args:
        workers: processes at most.
        memory: bytes that one trial takes; more counts as soon as one has taken more.
    """

    def __init__(self, device: str, workers: int, memory: int = FIRST_GUESS) -> None:
        self._device, self._most, self._hungriest = device, workers, memory
        self._free = free_bytes(torch.device("cpu"))
        self._idle = list[ProcessPoolExecutor]()
        self._busy = dict[Future[Outcome], tuple[str, ProcessPoolExecutor]]()

    @property
    def running(self) -> int:
        """Processes at work."""
        return len(self._busy)

    def has_room(self) -> bool:
        """While there are fewer than may be, and than have room for as much as the hungriest trial so far took."""
        return len(self._busy) < max(1, min(self._most, self._free // max(1, self._hungriest)))

    def start(self, digest: str, plan: str) -> None:
        """Hands it to an idle process, or to a new one."""
        slot = self._idle.pop() if self._idle else _one()
        self._busy[slot.submit(run_trial, plan, self._device)] = digest, slot

    def ended(self, seconds: float) -> list[Ended]:
        """What the processes handed back, and the trials of those that died."""
        done = wait(self._busy, seconds, FIRST_COMPLETED).done
        return [self._ended(future) for future in done]

    def _ended(self, future: Future[Outcome]) -> Ended:
        digest, slot = self._busy.pop(future)
        try:
            outcome = future.result()
        except BrokenProcessPool:
            slot.shutdown(wait=False)
            return Ended(digest, Lost("a signal, or the end of the machine's memory"))
        self._idle.append(slot)
        self._hungriest = max(self._hungriest, outcome.peak or 0)
        return Ended(digest, outcome)

    def close(self) -> None:
        """Ends the processes, also those at work."""
        for slot in [*self._idle, *(slot for _, slot in self._busy.values())]:
            _kill(slot)
        self._idle.clear()
        self._busy.clear()


def _one() -> ProcessPoolExecutor:
    # a fresh interpreter: what PyTorch's threads hold does not survive a fork
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)


def _begin() -> None:
    """In the new process: one thread, and an end as soon as the process that started it is gone, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal, for all of its processes; `close` ends this one
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _kill(slot: ProcessPoolExecutor) -> None:
    processes = list((slot._processes or {}).values())  # pyright: ignore[reportPrivateUsage] # kill_workers: Python 3.14
    slot.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
