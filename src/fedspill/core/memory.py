"""How much memory work takes, counted while it is done, and how much there is."""

import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fedspill.core.watching.operations import EveryOperation

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


class Counting(EveryOperation):
    """Follows every storage from the operator that made it to its end.

    Attributes:
        alive: bytes of those that are not at their end.
        peak: the most of them at a time.
        made: bytes of all, those at their end too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak, self.made = 0, 0, 0
        self._known = set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, made=False)  # what an operator is handed and none returned was there before
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor, made=True)
        return result

    def _note(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes() if made else 0
        if not key or key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.made += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


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
