"""Work that can be given up in its midst: a clock that is looked at by every operation on tensors.

A budget that is looked at between iterations is broken by the first long one. An evaluation of a large network spends
its time in PyTorch's own loops, where neither a signal nor a thread can end it; but every operation there passes the
dispatcher, which asks.
"""

import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch.utils import _python_dispatch as dispatch

from fedspill.core.watching.counting import Counting
from fedspill.core.watching.operations import EveryOperation

LONG = 0.5
"""Seconds of an evaluation from which on it is worth some microseconds for each of its operations to end it midway."""
PATIENCE = 2.0
"""Seconds of a first evaluation from which on it tells of all others."""


class OutOfTime(BaseException):
    """The time is up. No `Exception`, so that code which survives any fault of a network does not survive this."""


class Clock(EveryOperation):
    """Raises `OutOfTime` from the next operation on tensors, forward or backward, as soon as the time is up.

    Costs some microseconds an operation.

    Args:
        end: `time.monotonic()` at which that will be; infinite where it is not known.
    """

    def __init__(self, is_up: Callable[[], bool], end: Callable[[], float] = lambda: math.inf) -> None:
        super().__init__()
        self.is_up, self.end = is_up, end

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The operation, if there is time for it."""
        if self.is_up():
            raise OutOfTime
        return func(*args, **(kwargs or {}))


def until(deadline: float | Callable[[], float] | None) -> AbstractContextManager[object]:
    """Work that `OutOfTime` ends at `time.monotonic()` of `deadline`, which may be put off; None never ends it."""
    if deadline is None:
        return nullcontext()
    end = deadline if callable(deadline) else lambda: deadline
    return Clock(lambda: time.monotonic() >= end(), end)


def around() -> Callable[[], bool]:
    """Whether the time of the clock around this is up; never where there is none."""
    clock = dispatch._get_current_dispatch_mode()  # pyright: ignore[reportPrivateUsage]
    return clock.is_up if isinstance(clock, Clock) else lambda: False


def left() -> float:
    """Seconds until the clock around this ends the work; infinite where there is none."""
    clock = dispatch._get_current_dispatch_mode()  # pyright: ignore[reportPrivateUsage]
    return max(0.0, clock.end() - time.monotonic()) if isinstance(clock, Clock) else math.inf


@contextmanager
def unhurried() -> Generator[None]:
    """Work that no clock around it ends, at full speed."""
    if isinstance(dispatch._get_current_dispatch_mode(), Clock):  # pyright: ignore[reportPrivateUsage]
        with dispatch._pop_mode_temporarily():  # pyright: ignore[reportPrivateUsage]
            yield
    else:
        yield


class Pace:
    """Evaluations of a loop that looks at the clock between them: ended midway only where they are long.

    Args:
        is_up: whether the loop's time is up.
        tell: called once, as soon as it is known what an evaluation needs: its seconds (those of the second, unless the
            first took so long that what it made once does not matter), and the bytes of tensors that the first had
            alive at a time beyond what was held before.
    """

    def __init__(self, is_up: Callable[[], bool], tell: Callable[[float, int], None] = lambda *_: None) -> None:
        self._is_up, self._tell = is_up, tell
        self._last, self._memory, self._told = math.inf, -1, False

    @contextmanager
    def evaluation(self) -> Generator[None]:
        """One evaluation, which should leave what it changes to after its end.

        Raises:
            OutOfTime: the time was up in its midst.
        """
        began, first, counting = time.monotonic(), self._memory < 0, Counting()

        def is_up() -> bool:  # what is nearly done is finished
            return time.monotonic() - began >= LONG and self._is_up()

        with Clock(is_up) if self._last >= LONG else unhurried(), counting if first else nullcontext():
            yield
        self._last = time.monotonic() - began
        self._memory = counting.peak if first else self._memory
        if not self._told and (self._last > PATIENCE or not first):
            self._told = True
            self._tell(self._last, self._memory)
