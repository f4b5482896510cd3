"""Sweeps whose trials are arithmetic, so that what is tested is who runs which and what becomes of it."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from fedspill.report.sweep import Outcome
from fedspill.sweeping.engines.here import Here
from fedspill.sweeping.whole import Swept, run_sweep

TABLE = {
    "audit": {"attacks": ["linear_layer"], "metrics": ["psnr"]},
    "model": {"name": "mlp", "hidden": [4]},
    "data": {"name": "photos", "size": 4, "indices": "0:2"},
    "sweep": {"model": {"seed": list(range(12))}, "client": {"num_examples": [1, 2]}},
}
SMALL = {**TABLE, "sweep": {"model": {"seed": [0, 1]}, "defences": [[], [{"name": "gradient_noise", "sigma": 0.1}]]}}


def made_up(plan: str, device: str) -> Outcome:
    """An outcome that follows from the plan alone."""
    table = json.loads(plan)
    value = int(hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:8], 16) / 2**32
    return Outcome(state="done", verdict="leaks", leaked=1, examples=2, metric="psnr", unit="dB", worst=value, scored=1)


def noted(file: Path, seconds: float = 0.0) -> Callable[[str, str], Outcome]:
    """The same; notes in a file each trial that was begun, and takes its time."""

    def run(plan: str, device: str) -> Outcome:
        with file.open("a") as notes:
            notes.write(f"{os.getpid()} {plan}\n")
        time.sleep(seconds)
        return made_up(plan, device)

    return run


def swept(folder: Path, run: Callable[[str, str], Outcome] = made_up, table: dict | None = None, **more) -> Swept:
    """A sweep in this process."""
    return run_sweep(table or TABLE, folder, lambda: Here("cpu", run), **more)


def in_a_child(work: Callable[[], object]) -> int:
    """A process that does it and ends; its number."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return child
