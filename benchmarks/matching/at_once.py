"""Many updates attacked at once: CIFAR-10 test images from number 9,000 on, each an update of its own.

    python -m benchmarks.matching.at_once --network resnet20_4 --images 100 --device cuda
    python -m benchmarks.matching.at_once --network lenet --images 2 --steps 20         # a trial on a CPU
    python -m benchmarks.matching.at_once --network lenet --images 8 --compare          # and the same one by one

Labels granted, eval mode, one gradient each of the same network. Time is that of the attack alone, after the updates
are made. Preset `quick` first reads exactly what a gradient tells, image by image, and stacks what is left to search;
`--search-only` leaves that out.
"""

import argparse
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any, cast

import torch
from rich.console import Console

from benchmarks.common import places, records
from benchmarks.common.clock import MB, synchronise
from benchmarks.common.cpu_torchvision import DECLARED  # noqa: F401
from benchmarks.matching.world import FIRST, Case, of, world
from fedspill.attacks.inverting_gradients import CARD, InvertingGradients
from fedspill.auditing.watch import TrialWatch
from fedspill.cli.progress import TerminalListener
from fedspill.core.rng import stream
from fedspill.core.roles import Job
from fedspill.core.settings import described, with_fields
from fedspill.core.types import Reconstruction
from fedspill.scoring.metrics import PSNR

RESULTS = places.RESULTS / "at_once"
CASES = {
    "lenet": Case("lenet"),
    "convnet64": Case("convnet"),
    "resnet20": Case("resnet20"),
    "resnet20_trained": Case("resnet20", weights="trained"),
    "resnet20_4": Case("resnet20_4"),
    "resnet18": Case("resnet18", options={"stem": "cifar"}),
}


def attack_of(args: argparse.Namespace) -> InvertingGradients:
    """The preset with the changes that were asked for."""
    attack = cast("InvertingGradients", CARD.presets[args.preset])
    attack = with_fields(attack, graph=args.graph, analytic=attack.analytic and not args.search_only)
    return attack if args.steps is None else with_fields(attack, steps=args.steps)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """The record: seconds, and the PSNR of every image."""
    attack, numbers = attack_of(args), tuple(range(FIRST, FIRST + args.images))
    given = world(CASES[args.network], numbers, args.seed, args.device)
    worlds = [of(given.model, given.private[[i]], given.training, args.seed) for i in range(args.images)]

    def jobs() -> list[Job]:
        return [Job(w.update, w.knowledge(), stream(args.seed, "at once", i)) for i, w in enumerate(worlds)]

    def measured(found: list[Reconstruction], seconds: float, cpu: float) -> dict[str, Any]:
        each = [
            float(PSNR()(r.inputs, w.private.inputs.to(r.inputs)).mean()) for r, w in zip(found, worlds, strict=True)
        ]
        searched = sum(len(r.objective) > 1 for r in found)
        return {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "searched": searched,
            "summary": summary(each),
            "psnr": each,
        }

    def at_once() -> list[Reconstruction]:
        with TerminalListener(Console(stderr=True)) as listener:
            return attack.reconstruct_many(jobs(), TrialWatch(listener))

    def one_by_one() -> list[Reconstruction]:
        return [attack.reconstruct(job.update, job.knowledge, job.rng) for job in jobs()]

    record: dict[str, Any] = {
        "settings": described(attack),
        "network": args.network,
        "n": args.images,
        "seed": args.seed,
    }
    for name, work in (("at_once", at_once), ("one_by_one", one_by_one))[: 2 if args.compare else 1]:
        synchronise(given.device)
        began, cpu = time.perf_counter(), time.process_time()
        found = work()
        synchronise(given.device)
        record[name] = measured(found, time.perf_counter() - began, time.process_time() - cpu)
        if given.device.type == "cuda":
            record[name]["memory_mb"] = round(torch.cuda.max_memory_allocated(given.device) / MB)
            torch.cuda.reset_peak_memory_stats(given.device)
    return {**record, "conditions": records.conditions(args)}


def summary(values: list[float]) -> dict[str, float]:
    """Of a PSNR per image, in dB."""
    found = {"mean": fmean(values), "median": median(values), "min": min(values), "max": max(values)}
    return {k: round(v, 3) for k, v in found.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=CASES, default="resnet20_4")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--preset", choices=CARD.presets, default="quick")
    parser.add_argument("--steps", type=int, help="of the search; the preset's by default")
    parser.add_argument("--search-only", action="store_true", help="read nothing exactly before the search")
    parser.add_argument("--graph", action="store_true", help="on a CUDA device: an iteration as a CUDA graph")
    parser.add_argument("--compare", action="store_true", help="the same images one by one as well")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0, help="of untrained weights and of starts")
    parser.add_argument("--out", type=Path, help="folder of the record")
    args = parser.parse_args()
    args.benchmark = "at_once"
    torch.set_num_threads(args.threads)
    record = run(args)
    folder = args.out or RESULTS / str(args.device).partition(":")[0]
    ways = "".join(f"-{k}" for k in ("graph", "search_only") if getattr(args, k))
    steps = "" if args.steps is None else str(args.steps)
    records.write(folder / f"{args.network}-{args.preset}{steps}{ways}-{args.images}.json", record)
    conditions = record["conditions"]
    for name in ("at_once", "one_by_one"):
        if name in record:
            found = record[name]
            psnr = ", ".join(f"{k} {v:.2f}" for k, v in found["summary"].items())
            took = f"{found['seconds']:.1f} s ({found['cpu_seconds']:.1f} of the processor)"
            print(f"{name}: {took}, n = {args.images}, {found['searched']} searched, PSNR in dB: {psnr}")
    print(f"{conditions['device']}, {conditions['versions']}, load {conditions['load']}")


if __name__ == "__main__":
    main()
