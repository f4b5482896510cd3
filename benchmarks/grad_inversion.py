"""GradInversion beside Inverting Gradients on the same updates: with the clients' statistics, without, seeds alone.

    python -m benchmarks.grad_inversion --out benchmarks/results/grad_inversion --table docs-table.md

CIFAR-10 test images from 9000 on (FEDSPILL_DATA), untrained ResNet-20 in eval mode, one gradient, labels granted, as
many iterations for all. Records are kept one by one; what is there is not run again.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import fedspill
from fedspill.core.tensor_files import write_whole

FIRST, APART = 9000, 100
GRANTS = ["labels", "num_examples", "local_training"]
VARIANTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "inverting_gradients:strong": ({"name": "inverting_gradients", "preset": "strong"}, GRANTS),
    "grad_inversion, the clients' statistics": (
        {"name": "grad_inversion", "preset": "strong", "statistics": "client"},
        [*GRANTS, "bn_statistics"],
    ),
    "the same, no pull": (
        {"name": "grad_inversion", "preset": "strong", "statistics": "client", "consensus": "none"},
        [*GRANTS, "bn_statistics"],
    ),
    "the same, pull to the mean without registration": (
        {"name": "grad_inversion", "preset": "strong", "statistics": "client", "consensus": "mean"},
        [*GRANTS, "bn_statistics"],
    ),
    "running statistics": ({"name": "grad_inversion", "preset": "strong", "statistics": "running"}, GRANTS),
    "no statistics": ({"name": "grad_inversion", "preset": "strong", "statistics": "none"}, GRANTS),
    "preset paper, the clients' statistics": (
        {"name": "grad_inversion", "preset": "paper"},
        [*GRANTS, "bn_statistics"],
    ),
}


def plan_of(variant: str, examples: int, seed: int, steps: int, seeds: int, model: str) -> dict[str, Any]:
    """As a plan."""
    attack, knows = VARIANTS[variant]
    attack = {**attack, "steps": steps} | ({} if attack["name"] == "inverting_gradients" else {"seeds": seeds})
    first = FIRST + APART * seed
    return {
        "audit": {"attacks": [attack], "budget": "none", "metrics": ["psnr"], "seeds": [seed]},
        "model": {"name": model, "seed": seed},
        "data": {"name": "cifar10", "indices": f"{first}:{first + examples}"},
        "client": {"num_examples": examples},
        "server": {"knows": knows},
    }


def measured(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One record for each variant, batch and seed."""
    for examples in given.examples:
        for seed in given.updates:
            for variant in given.variants or VARIANTS:
                name = f"{variant}.{examples}.{seed}.json".replace(" ", "-").replace(":", "_").replace("'", "")
                file = given.out / name
                if not file.is_file():
                    plan = plan_of(variant, examples, seed, given.steps, given.seeds, given.model)
                    began = time.process_time()
                    trial = fedspill.audit(plan).report.trials[0]
                    values = next(s.values for s in trial.scores if s.metric == "psnr")
                    record = {"variant": variant, "examples": examples, "seed": seed, "psnr": values}
                    record |= {"seconds": time.process_time() - began, "steps": given.steps, "seeds": given.seeds}
                    write_whole(file, json.dumps(record))
                record = json.loads(file.read_text(encoding="utf-8"))
                print(variant, examples, seed, [round(v, 1) for v in record["psnr"]], flush=True)
                yield record


def table(records: list[dict[str, Any]]) -> list[str]:
    """Means over the updates' examples, the lowest and the highest."""
    lines = [
        "| attack | n | updates | mean PSNR, dB | lowest to highest | processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    for examples in sorted({r["examples"] for r in records}):
        for variant in VARIANTS:
            kept = [r for r in records if r["variant"] == variant and r["examples"] == examples]
            if kept:
                values = [v for r in kept for v in r["psnr"]]
                spent = mean(r["seconds"] for r in kept)
                lines.append(
                    f"| {variant} | {examples} | {len(kept)} | {mean(values):.1f} | {min(values):.1f} to"
                    f" {max(values):.1f} | {spent:.0f} |"
                )
    return lines


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--table", type=Path)
    parser.add_argument("--examples", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--updates", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--model", default="resnet20")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    lines = table(list(measured(given)))
    head = (
        f"`python -m benchmarks.grad_inversion {shlex.join(sys.argv[1:])}`, fedspill {fedspill.__version__}, torch"
        f" {torch.__version__}, one thread."
    )
    text = "\n".join([head, "", *lines]) + "\n"
    print(text)
    if given.table is not None:
        write_whole(given.table, text)


if __name__ == "__main__":
    main()
