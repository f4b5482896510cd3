"""Presets of Inverting Gradients side by side on the same gradients: `strong` after few iterations, `paper` after many.

    python -m benchmarks.matching.presets run                      # resumable; about two hours on one core
    python -m benchmarks.matching.presets run --cases lenet --images 3
    python -m benchmarks.matching.presets table                    # what is recorded, as a Markdown table

One image an update, labels granted, eval mode; CIFAR-10 test images from number 9,000 on, which no setting was chosen
on (of the trained network those with a loss above 0.1; the case `resnet20_trained_any` takes them as they come, and on
most the network is so sure that the gradient tells nothing). A seed draws the network's weights, where it is untrained,
and the start.
"""

import argparse
from collections.abc import Iterator
from statistics import fmean
from typing import Any, cast

import torch
from scipy import stats

from benchmarks.common import places, records
from benchmarks.common.cpu_torchvision import DECLARED  # noqa: F401
from benchmarks.matching.world import Case, world
from fedspill.attacks.inverting_gradients import CARD, InvertingGradients
from fedspill.core.rng import stream
from fedspill.core.settings import described, with_fields
from fedspill.scoring.metrics import PSNR
from fedspill.zoo import data, models

RESULTS = places.RESULTS / "presets"
FIRST = 9000
HARD = 0.1
"""Loss of a trained network above which a gradient has anything to go by."""
CASES = {
    "lenet": Case("lenet"),
    "resnet20": Case("resnet20"),
    "resnet20_trained": Case("resnet20", weights="trained"),
    "resnet20_trained_any": Case("resnet20", weights="trained"),
    "resnet20_4": Case("resnet20_4"),
    "resnet18": Case("resnet18", options={"stem": "cifar"}),
}
SELECTED = ("resnet20_trained",)
"""Cases whose images are those with a loss above `HARD`."""
RUNS = (("strong", 240), ("paper", 240), ("paper", 2400))
PAPER: dict[str, str] = {
    "lenet": "paper_lenet_untrained",
    "resnet20": "paper_resnet20_untrained",
    "resnet20_trained": "paper_resnet20_trained",
    "resnet20_trained_any": "paper_resnet20_trained",
    "resnet20_4": "paper_resnet20_untrained",
}
"""The paper's own total variation for a case, where it names one."""


def attack_of(case: str, preset: str, steps: int) -> InvertingGradients:
    """The preset with another number of iterations; of `paper` the variant for the case."""
    name = PAPER.get(case, preset) if preset == "paper" else preset
    return with_fields(cast("InvertingGradients", CARD.presets[name]), steps=steps)


def images_of(case: str, count: int) -> list[int]:
    """Numbers of test images."""
    if case not in SELECTED:
        return list(range(FIRST, FIRST + count))
    numbers = tuple(range(FIRST, FIRST + 1000))
    pool = data.load("cifar10", split="test", indices=numbers)
    model = models.build(
        CASES[case].network,
        input_shape=(3, 32, 32),
        num_classes=pool.num_classes,
        weights="trained",
        mean=pool.mean,
        std=pool.std,
    )
    with torch.no_grad():
        logits = model.logits(model.params, model.input.encode(pool.batch.inputs))
    losses = torch.nn.functional.cross_entropy(logits, pool.batch.labels, reduction="none")
    return [numbers[i] for i in (losses > HARD).nonzero()[:count, 0].tolist()]


def one(case: str, attack: InvertingGradients, image: int, seed: int) -> dict[str, Any]:
    """One attack: its PSNR in dB and its process time in seconds."""
    from benchmarks.common.clock import Stopwatch

    given = world(CASES[case], (image,), seed, "cpu")
    clock = Stopwatch(given.device)
    clock.start()
    found = attack.reconstruct(given.update, given.knowledge(), stream(seed, "presets", str(image)))
    with clock.stopped() as (_, cpu):
        psnr = float(PSNR()(found.inputs, given.private.inputs).mean())
    return {"image": image, "seed": seed, "psnr": psnr, "cpu_seconds": cpu, "loss": given.loss}


def run(args: argparse.Namespace) -> None:
    """Everything that is not recorded yet, image by image, so that a broken run is balanced."""
    torch.set_num_threads(args.threads)
    for case in args.cases:
        for image in images_of(case, args.images):
            for seed in range(args.seeds):
                for preset, steps in RUNS:
                    if args.presets and f"{preset}{steps}" not in args.presets:
                        continue
                    _record(args, case, preset, steps, image, seed)


def _record(args: argparse.Namespace, case: str, preset: str, steps: int, image: int, seed: int) -> None:
    path = RESULTS / f"{case}-{preset}{steps}.json"
    attack = attack_of(case, preset, steps)
    empty: dict[str, Any] = {"settings": described(attack), "runs": []}
    kept = records.read(path) if path.is_file() else empty
    if kept["settings"] != described(attack):
        kept = empty
    if any((r["image"], r["seed"]) == (image, seed) for r in kept["runs"]):
        return
    kept["runs"].append(found := one(case, attack, image, seed))
    records.write(path, {**kept, "conditions": records.conditions(args)})
    print(f"{case} {preset}{steps} image {image} seed {seed}: {found['psnr']:.2f} dB, {found['cpu_seconds']:.1f} s")


def lines() -> Iterator[str]:
    """Of the table: every run's mean, and the difference of `strong` on the same images and seeds."""
    yield "| network | preset, iterations | PSNR, dB | median | worst for the client | n | CPU s |"
    yield "|---|---|---|---:|---:|---:|---:|"
    for case in CASES:
        found = {k: _runs(case, *k) for k in RUNS if _runs(case, *k)}
        for (preset, steps), runs in found.items():
            psnr = list(runs.values())
            seconds = fmean(r["cpu_seconds"] for r in records.read(RESULTS / f"{case}-{preset}{steps}.json")["runs"])
            middle = sorted(psnr)[len(psnr) // 2]
            yield (
                f"| {case} | {preset}, {steps} | {_interval(psnr)} | {middle:.1f} | {max(psnr):.1f} | {len(psnr)}"
                f" | {seconds:.1f} |"
            )
        best, base = found.get(RUNS[0], {}), found.get(RUNS[-1], {})
        both = [best[k] - base[k] for k in best if k in base]
        if len(both) > 1:
            yield f"| {case} | strong at 240 less paper at 2,400 | {_interval(both)} | | | {len(both)} | |"


def _runs(case: str, preset: str, steps: int) -> dict[tuple[int, int], float]:
    path = RESULTS / f"{case}-{preset}{steps}.json"
    runs = records.read(path)["runs"] if path.is_file() else []
    return {(r["image"], r["seed"]): r["psnr"] for r in runs}


def _interval(values: list[float]) -> str:
    """Mean and its 95 % interval (Student's t over runs)."""
    if len(values) < 2:
        return f"{fmean(values):.2f}"
    half = float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
    return f"{fmean(values):.2f} ± {half:.2f}"


def main() -> None:
    """The command line."""
    records.run_or_table("matching.presets", __doc__, _options, run, lines)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["lenet", "resnet20_trained", "resnet20"])
    parser.add_argument("--presets", nargs="+", help="such as strong240; all by default")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=2)


if __name__ == "__main__":
    main()
