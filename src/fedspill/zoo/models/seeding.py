"""Other people's code draws from the global generators; here it does so without a trace."""

import random
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def borrowed_globals(rng: torch.Generator) -> Generator[None]:
    """Inside, the global generators of torch, NumPy and Python follow from `rng`; then they are as before."""
    seed = int(torch.randint(2**31, (), generator=rng))
    kept, kept_numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            # The factories of other packages take no generator: nothing but the global state reaches them.
            torch.manual_seed(seed)  # noqa: TID251
            np.random.seed(seed)  # noqa: TID251
            random.seed(seed)  # noqa: TID251
            yield
        finally:
            random.setstate(kept)
            np.random.set_state(kept_numpy)
