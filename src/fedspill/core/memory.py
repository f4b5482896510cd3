"""How much memory work takes, counted while it is done, and how much there is."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from fedspill.core.watching.counting import Counting

GROUPS = Path("/sys/fs/cgroup")
"""Where Linux keeps the limits of a container, one number a file."""
UNITS = ("B", "KB", "MB", "GB", "TB")


def peak_bytes(work: Callable[[], object]) -> int:
    """The most bytes of tensors alive at a time that `work` made itself; what it returns counts.

    Counted by the storages that PyTorch's operators return, views and operations in place not among them; scratch
    space inside an operator is not seen.
    """
    with Counting() as counting:
        work()
    return counting.peak


def free_bytes(device: torch.device) -> int:
    """What the card, or the machine within its container's limits, has left.

    On a card that includes what PyTorch holds in reserve.
    """
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserve
    return min(_machine(), _container())


def _machine() -> int:
    """What Linux could give without swapping; elsewhere the pages that are free, or all."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    names = getattr(os, "sysconf_names", dict[str, int]())
    pages = next((n for n in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES") if n in names), None)
    return 1 << 62 if pages is None else os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


def _container() -> int:
    """Bytes that the process's container has left, if it has a limit; its file cache can be taken back."""
    with suppress(OSError, ValueError, StopIteration):
        limit, held = (int((GROUPS / name).read_text()) for name in ("memory.max", "memory.current"))
        counts = (line.split() for line in (GROUPS / "memory.stat").read_text().splitlines())
        return max(0, limit - held + next(int(v) for k, v in counts if k == "inactive_file"))
    return 1 << 62


def words(size: int | float) -> str:
    """Bytes as people say them, such as "1.5 GB"."""
    power = min(len(UNITS) - 1, max(0, (len(str(int(size))) - 1) // 3))
    return f"{size / 1000**power:.3g} {UNITS[power]}"
