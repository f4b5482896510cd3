"""Who holds a claimed trial, and whether it still lives."""

import os
import platform
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

BEAT_SECONDS = 10.0
"""Between two signs of life."""
LEASE_SECONDS = 300.0
"""Without a sign of life after which a holder counts as dead: 30 beats, so that a busy machine costs no lease."""
ENDED = "ZX"
"""What the kernel calls the state of a process that has ended and that nobody has asked about yet."""


@dataclass(frozen=True)
class Holder:
    """One running `fedspill sweep`.

    Attributes:
        token: tells it from all others, also from those that had its process number before.
        born: when its process was started, as its machine counts; "" where that is not known.
    """

    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)
    born: str = field(default_factory=lambda: born_of(os.getpid()))


def born_of(pid: int) -> str:
    """When a process was started, in the kernel's own count; "" where there is none that still runs, or no /proc."""
    with suppress(OSError):
        # the name, in brackets, may hold spaces and brackets
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if told[0] in ENDED else told[19]
    return ""


def is_alive(holder: Holder, beat: float, now: float) -> bool:
    """Whether a holder may still finish what it holds.

    Args:
        beat: its last sign of life, in seconds since 1970.
        now: likewise.
    """
    if now - beat > LEASE_SECONDS:
        return False
    return holder.host != platform.node() or (_runs(holder.pid) and holder.born == born_of(holder.pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
