"""Networks that others made, untrained, one example, its gradient: what is read, and what a search adds.

    python -m benchmarks.own_networks --out benchmarks/results/own_networks.md

    python -m benchmarks.own_networks --standard --budget 120 --out benchmarks/results/own_networks_standard.md

The second runs `standard` with a server that may change the architecture, on one and on eight examples, and writes the
verdict for each kind of server. Needs timm and torchvision. Each network is attacked under its own names, as its
library builds it, on the first embedded photographs; weights of theirs are downloads, so that all are untrained here.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

import fedspill
from fedspill.core.tensor_files import write_whole

NETWORKS = {
    "torchvision:resnet18": 64,
    "torchvision:vgg11_bn": 64,
    "torchvision:mobilenet_v3_small": 64,
    "torchvision:densenet121": 64,
    "timm:vit_tiny_patch16_224": 224,
    "timm:convnext_atto": 64,
}
"""By the side of the pictures in pixels."""
HEAD = (
    "| network | parameters | where the recursion ends | PSNR in dB, each example | iterations | processor seconds"
    " | self-check |",
    "|---|---|---|---|---|---|---|",
)
STANDARD_HEAD = (
    "| network | n | server | verdict | strongest attack | worst example | seconds of its attacks | wall seconds |",
    "|---|---|---|---|---|---|---|---|",
)
BUDGET = 240.0
"""Seconds for all examples of one network."""


def row(name: str, size: int, examples: int, budget: float) -> str:
    """One line of the table."""
    plan = {
        "audit": {"attacks": ["inverting_gradients:quick"], "metrics": ["psnr"], "budget": budget},
        "model": {"name": name, "normalise": "imagenet", "num_classes": 10},
        "data": {"name": "photos", "size": size, "indices": f"0:{examples}"},
        "client": {"num_examples": 1},
    }
    began = time.process_time()
    report = fedspill.audit(plan).report
    seconds = time.process_time() - began
    trials = report.trials
    values = [v for t in trials for s in t.scores for v in s.values if v is not None]
    ended = " ".join(dict.fromkeys(note for t in trials for note in t.notes if "ecover" in note))
    budgeted = ", ended by the budget" if any(t.ended_by_budget for t in trials) else ""
    checks = max((t.self_check or 0.0) for t in trials)
    scores = " / ".join(f"{v:.1f}" for v in values) or "none"
    iterations = max(t.iterations for t in trials)
    return (
        f"| {name} at {size} | {report.environment.parameters:,} | {ended} | {scores} | {iterations} |"
        f" {seconds:.0f}{budgeted} | {checks:.0e} |"
    )


def standard_rows(name: str, size: int, examples: int, budget: float) -> list[str]:
    """The verdict for each kind of server that an audit by `standard` comes to."""
    plan = {
        "audit": {"attacks": ["standard"], "budget": budget},
        "model": {"name": name, "normalise": "imagenet", "num_classes": 10},
        "data": {"name": "photos", "size": size, "indices": f"0:{examples}"},
        "client": {"num_examples": examples},
        "server": {"role": "malicious architecture"},
    }
    began = time.monotonic()
    report = fedspill.audit(plan).report
    wall = time.monotonic() - began
    lines = list[str]()
    for verdict in report.verdict.by_role:
        worst = "" if verdict.worst is None else f"{verdict.worst.value:.1f} {verdict.worst.unit}"
        spent = sum(t.seconds for t in report.trials if t.role == verdict.role)
        lines.append(
            f"| {name} at {size} | {examples} | {verdict.role} | {verdict.name.value} | {verdict.attack or ''} |"
            f" {worst} | {spent:.0f} | {wall:.0f} |"
        )
    return lines


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--examples", type=int, default=2)
    parser.add_argument("--budget", type=float, default=BUDGET)
    parser.add_argument("--standard", action="store_true", help="verdicts of standard, one and eight examples")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    lines = [
        f"`python -m benchmarks.own_networks {shlex.join(sys.argv[1:])}`, fedspill {fedspill.__version__},"
        f" torch {torch.__version__}, {torch.get_num_threads()} threads,"
        f" {'one update' if given.standard else f'n = {given.examples} examples each'}, seed 0.",
        "",
        *(STANDARD_HEAD if given.standard else HEAD),
    ]
    for name in given.networks:
        size = NETWORKS.get(name, 64)
        if given.standard:
            lines += [line for n in (1, 8) for line in standard_rows(name, size, n, given.budget)]
        else:
            lines.append(row(name, size, given.examples, given.budget))
        print(lines[-1], flush=True)
        if given.out is not None:
            write_whole(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
