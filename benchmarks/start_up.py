"""What it costs to start: processor time of fresh processes beside that of importing PyTorch, in turns.

    python -m benchmarks.start_up
    python -m benchmarks.start_up --runs 9 --against OLD_CHECKOUT/src      # the same commands of another checkout

A row's share is its median over that of `import torch`; an audit is one image, a fully connected network, in memory,
and its own time is what it adds to `import torch`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

AUDIT = """
import torch, fedspill
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 16), torch.nn.ReLU(), torch.nn.Linear(16, 10))
plan = {"audit": {"attacks": ["linear_layer"]}, "client": {"num_examples": 1}}
fedspill.audit(plan, model=net, data=(torch.rand(1, 3, 8, 8), torch.tensor([3])), normalise=None)
"""
COMMAND = "import sys; from fedspill.cli import main; main()"
TORCH = "import torch"
CASES: dict[str, list[str]] = {
    TORCH: ["-c", TORCH],
    "import fedspill": ["-c", "import fedspill"],
    "fedspill --help": ["-c", COMMAND, "--help"],
    "fedspill --version": ["-c", COMMAND, "--version"],
    "fedspill list attacks": ["-c", COMMAND, "list", "attacks"],
    "fedspill.audit, small plan": ["-c", AUDIT],
}


def seconds(words: list[str], source: Path | None) -> float:
    """Processor time, of the user and of the system, of a fresh process; NaN where it fails."""
    environment = {**os.environ, **({} if source is None else {"PYTHONPATH": str(source)}), "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent if done.returncode == 0 else float("nan")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--against", type=Path, help="sources of another checkout")
    args = parser.parse_args()
    sides: list[Path | None] = [None, *([] if args.against is None else [args.against])]
    spent = {(name, side): list[float]() for name in CASES for side in sides}
    for _ in range(args.runs):
        for (name, side), values in spent.items():
            values.append(seconds(CASES[name], side))
    medians = {key: statistics.median(values) for key, values in spent.items()}
    print(f"`python -m benchmarks.start_up --runs {args.runs}`, medians of processor seconds, one thread.\n")
    print(f"| | seconds | of `{TORCH}` |" + (" the other checkout | ratio |" if len(sides) > 1 else ""))
    print("|---|---|---|" + ("---|---|" if len(sides) > 1 else ""))
    base = medians[TORCH, None]
    for name in CASES:
        mine = medians[name, None]
        added = mine - base if CASES[name][1] is AUDIT else mine
        row = f"| {name} | {mine:.2f} | {added / base:.2f} |"
        for side in sides[1:]:
            row += f" {medians[name, side]:.2f} | {mine / medians[name, side]:.3f} |"
        print(row)


if __name__ == "__main__":
    main()
