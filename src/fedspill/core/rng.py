"""Named random streams: adding a component never shifts another's numbers."""

import hashlib

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
