"""Named random streams: adding a component never shifts another's numbers."""

import hashlib
import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def stream(seed: int, *name: str | int) -> torch.Generator:
    """A CPU generator for one named use, e.g. `stream(0, "attack", "dlg", 3)`."""
    digest = hashlib.sha256(repr((seed, name)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def split(rng: torch.Generator, count: int) -> list[torch.Generator]:
    """Child streams: what one of them draws never shifts another's numbers."""
    seeds = torch.randint(2**62, (count,), generator=rng).tolist()
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def randn(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Standard normal numbers drawn on the CPU in float32 and moved, so that a GPU run sees the same ones."""
    return torch.randn(shape, generator=rng, dtype=torch.float32).to(like)


def rand(shape: tuple[int, ...], rng: torch.Generator, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1), drawn as `randn` draws."""
    return torch.rand(shape, generator=rng, dtype=torch.float32).to(like)


@contextmanager
def seeded_globals(rng: torch.Generator) -> Generator[None]:
    """Inside, the global generators of torch, NumPy and Python follow from `rng`; then they are as before.

    Other people's code (factories, dropout) draws from nothing else.
    """
    seed = int(torch.randint(2**31, (), generator=rng))
    kept, kept_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            torch.manual_seed(seed)  # noqa: TID251
            np.random.seed(seed)  # noqa: TID251
            random.seed(seed)  # noqa: TID251
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(kept_numpy)
