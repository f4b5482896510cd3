"""Time and memory of an attack, and what listens to its iterations; the same for both tools."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

MB = 2**20


@dataclass(frozen=True)
class Snapshot:
    """An attack between two iterations.

    Attributes:
        best: z that the tool would return if it ended now: of the lowest objective so far, by its own book-keeping.
        current: z of the last step.
        objective: the lowest so far, the tool's own, prior included.
    """

    best: Tensor
    current: Tensor
    objective: float


class Probe:
    """What listens to an attack; on its own it does nothing.

    Attributes:
        scoring: `seen` wants to hear every iteration. Without it a tool shall do nothing that it would not do alone.
    """

    scoring = False

    def start(self) -> None:
        """The attack begins now."""

    def tick(self, done: int) -> None:
        """So many iterations are done."""

    def seen(self, done: int, snapshot: Callable[[], Snapshot]) -> None:
        """Likewise, with what there is to see."""

    def end(self, done: int, pixels: Tensor, objective: float) -> None:
        """The attack returned images with values in [0, 1]."""


def synchronise(device: torch.device) -> None:
    """Waits for the work that was queued, without which a clock reads too early."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Ticks(Probe):
    """Seconds per iteration, with one wait for the device at each end of the counted stretch.

    Attributes:
        device: of the attack.
        warmup: iterations that are not counted, at least 1.
        last: the iteration at which the count ends.
    """

    device: torch.device
    warmup: int
    last: int
    _begun: float = 0.0
    _marks: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])

    def start(self) -> None:
        """The attack begins now."""
        synchronise(self.device)
        self._begun = time.perf_counter()

    def tick(self, done: int) -> None:
        """Notes the time at the first iteration past the warm-up and at the last."""
        if (not self._marks and done >= self.warmup) or (len(self._marks) == 1 and done >= self.last):
            synchronise(self.device)
            self._marks.append((done, time.perf_counter()))

    def result(self) -> tuple[float, float]:
        """Seconds per iteration, and seconds of everything else before the first one that was counted."""
        (first, at), (last, end) = self._marks
        each = (end - at) / (last - first)
        return each, max(0.0, at - self._begun - first * each)


@dataclass
class Stopwatch:
    """Wall and processor seconds of this process, less those inside `stopped`."""

    device: torch.device
    _out: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        """Sets it to 0."""
        synchronise(self.device)
        self._out = self._now()

    def read(self) -> tuple[float, float]:
        """Seconds of the wall clock and of all processor threads."""
        wall, cpu = self._now()
        return wall - self._out[0], cpu - self._out[1]

    @contextmanager
    def stopped(self) -> Generator[tuple[float, float]]:
        """What happens inside takes no time; gives the reading."""
        synchronise(self.device)
        begun, reading = self._now(), self.read()
        try:
            yield reading
        finally:
            synchronise(self.device)
            ended = self._now()
            self._out = (self._out[0] + ended[0] - begun[0], self._out[1] + ended[1] - begun[1])

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


def resident(line: str) -> float:
    """VmRSS or VmHWM of this process in MB; getrusage would count what the parent held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(line)) / 1024


def memory_now(device: torch.device) -> float:
    """MB that are held now; on CUDA tensors on the device, and the record of the peak begins anew."""
    if device.type != "cuda":
        return resident("VmRSS")
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device) / MB


def memory_peak(device: torch.device) -> float:
    """MB that were held at most."""
    return torch.cuda.max_memory_allocated(device) / MB if device.type == "cuda" else resident("VmHWM")
