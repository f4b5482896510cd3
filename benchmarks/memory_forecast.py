"""What a search is forecast to take of memory beside what the process grows by while it runs.

    python -m benchmarks.memory_forecast

The process's resident memory is read every few milliseconds, from the beginning of the attack to its last iteration;
what it was before is taken off. Each setting runs in a process of its own, after a small audit that loads all code, so
that nothing else grows meanwhile but for the clients' update.
"""

import argparse
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import fedspill
from fedspill.auditing.watch import Silent
from fedspill.report.trial import Trial

PAGE = 4096
SETTINGS: list[tuple[str, int, int, dict[str, Any]]] = [
    ("lenet", 32, 8, {}),
    ("lenet", 32, 8, {"protocol": "fedavg", "lr": 0.01, "minibatch_size": 2}),
    ("convnet", 32, 1, {}),
    ("convnet", 32, 8, {}),
    ("convnet", 32, 4, {"protocol": "fedavg", "lr": 0.01, "minibatch_size": 2}),
    ("resnet20_4", 32, 4, {}),
    ("resnet18", 32, 1, {}),
    ("resnet18", 32, 8, {}),
    ("resnet18", 64, 4, {"protocol": "fedavg", "lr": 0.01, "minibatch_size": 2}),
    ("resnet34", 32, 4, {}),
    ("resnet18", 224, 1, {}),
    ("resnet18", 224, 4, {}),
]


def resident() -> int:
    """Bytes that the process holds."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


class Sampler(Silent):
    """Remembers what is held when a trial begins, and the most that is held afterwards."""

    def __init__(self) -> None:
        self.before, self.most, self.over = 0, 0, False

    def trial(self, number: int, total: int, name: str) -> None:
        """The search begins."""
        self.before = self.most = resident()
        threading.Thread(target=self._sample, daemon=True).start()

    def progress(self, done: int, total: int, objective: float) -> None:
        """The search goes on; what follows it is judging."""
        self.over = done >= total

    def _sample(self) -> None:
        while not self.over:
            self.most = max(self.most, resident())
            time.sleep(0.003)


def measured(setting: tuple[str, int, int, dict[str, Any]], into: Any) -> None:
    """Forecast and growth, in bytes."""
    run(("lenet", 32, 1, {}), Silent())
    sampler = Sampler()
    foreseen = run(setting, sampler).foreseen
    into.put((None if foreseen is None else foreseen.memory, sampler.most - sampler.before))


def run(setting: tuple[str, int, int, dict[str, Any]], listener: Silent) -> Trial:
    """Four iterations."""
    model, size, n, client = setting
    attack = {"name": "inverting_gradients", "preset": "paper", "steps": 4}
    plan = {
        "audit": {"attacks": [attack], "metrics": ["psnr"], "budget": "none"},
        "model": {"name": model, "normalise": "data"},
        "data": {"name": "photos", "indices": f"0:{n}", "size": size},
        "client": {"num_examples": n, **client},
    }
    return fedspill.audit(plan, listener=listener).report.trials[0]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    print("| setting | forecast, MB | grown by, MB | forecast / real |\n|---|---|---|---|")
    context = multiprocessing.get_context("spawn")
    for setting in SETTINGS:
        queue = context.Queue()
        process = context.Process(target=measured, args=(setting, queue))
        process.start()
        forecast, grown = queue.get()
        process.join()
        model, size, n, client = setting
        name = f"{model} at {size}, n = {n}{', 2 or 4 local steps' if client else ''}"
        ratio = "" if not forecast else f"{forecast / max(1, grown):.2f}"
        print(f"| {name} | {(forecast or 0) / 1e6:.0f} | {grown / 1e6:.0f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
