"""GIAS against Inverting Gradients on gradients that were pruned, or that noise was added to: batches of four.

The small CNN and LeNet, untrained, eval mode, one gradient of four CIFAR-10 test images from 9000 on; labels granted.
"pruned": of each tensor the 1 % of the largest values, all others 0. "noisy": Gaussian noise on every value, as large
as the root mean square of the gradient. Both attacks are given the same number of evaluations; of what was pruned, GIAS
compares the values that survive, and Inverting Gradients is run in both ways. The generator is trained on CIFAR-10's
training images only. PSNR with the best assignment. Settings were chosen on test images from 8000 on. Seconds are those
of one thread, process time.

    fedspill train generator plans/train/cifar10_generator.toml --out generator.safetensors
    python -m benchmarks.gias run --attack GIAS --generator generator.safetensors --network cnn
    python -m benchmarks.gias run --attack "Inverting Gradients, TV" --network cnn
    python -m benchmarks.gias table
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import places
from benchmarks.common.records import conditions, read, run_or_table, write
from fedspill.attacks import gias, inverting_gradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.scoring.match import match
from fedspill.scoring.metrics import PSNR, SSIM
from fedspill.zoo import data
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10

RESULTS = places.RESULTS / "gias"
FIRST, SIZE, KEPT, NOISE = 9000, 4, 0.01, 1.0


def pruned(update: Update) -> Update:
    """Of each tensor the largest values, at least one."""

    def kept(value: Tensor) -> Tensor:
        size = value.abs()
        least = size.flatten().topk(max(1, round(KEPT * value.numel()))).values[-1]
        return value.where(size >= least, 0.0)

    return replace(update, values={k: kept(v) for k, v in update.values.items()})


def noisy(update: Update) -> Update:
    """With noise of the gradient's own size."""
    return GradientNoise(NOISE, relative=True, distribution="gaussian").noised(update, stream(0, "noise"))


CONDITIONS: dict[str, Callable[[Update], Update]] = {"pruned": pruned, "noisy": noisy, "as it is": lambda u: u}


def attacks(generator: str, steps: int) -> dict[str, Attack]:
    """By name; all in their presets "strong", of which only the number of steps is changed."""
    ours = with_fields(gias.CARD.presets["strong"], generator=generator, steps=steps)
    tv = with_fields(inverting_gradients.CARD.presets["strong"], steps=steps)
    linear = with_fields(ours, generator="")
    return {
        "Inverting Gradients, TV": tv,
        "Inverting Gradients, TV, surviving": with_fields(tv, distance="surviving"),
        "GIAS": ours,
        "GIAS, all values": with_fields(ours, distance="cosine"),
        "GIAS, latents alone": with_fields(ours, weights_share=0.0, pixels_share=0.0),
        "GIAS, principal components": linear,
    }


@dataclass(frozen=True)
class Row:
    """One batch.

    Attributes:
        psnr: dB of each image, in the batch's order.
        residual: share of a blank image's distance that is left.
        seconds: of processor time.
    """

    condition: str
    batch: int
    psnr: list[float]
    ssim: list[float]
    residual: float
    seconds: float


def measured(attack: Attack, model: Model, batch: Batch, update: Update, public: Batch) -> tuple[Tensor, float, float]:
    """The images in the batch's order, the residual and the seconds."""
    knowledge = ServerKnowledge(
        model, num_examples=SIZE, labels=batch.labels, local_training=FedSGD(), public_data=public
    )
    began = time.process_time()
    got = attack.reconstruct(update, knowledge, stream(0, "attack"))
    seconds = time.process_time() - began
    assert got.confidence is not None
    order, _ = match(got.inputs, batch.inputs)
    return got.inputs[order], 1 - float(got.confidence[0]), seconds


def world(args: argparse.Namespace) -> tuple[Model, list[Batch], Batch]:
    """The network, the private batches and the public images."""
    stop = FIRST + SIZE * args.batches
    private = data.load("cifar10", split="test", indices=f"{FIRST}:{stop}").batch
    public = data.load("cifar10", split="train", indices="0:1000").batch
    shape, (mean, std) = (3, 32, 32), (CIFAR10.mean, CIFAR10.std)
    model = build(args.network, input_shape=shape, num_classes=10, seed=0, mean=mean, std=std)
    return model, [private[i : i + SIZE] for i in range(0, len(private), SIZE)], public


def rows(args: argparse.Namespace, known: set[tuple[str, int]]) -> Iterator[Row]:
    """One after the other, without those that are known by condition and batch."""
    attack, (model, batches, public) = attacks(args.generator, args.steps)[args.attack], world(args)
    for condition in args.conditions:
        for number, batch in enumerate(batches):
            if (condition, number) not in known:
                update = CONDITIONS[condition](local_update(model, batch, FedSGD()))
                images, residual, seconds = measured(attack, model, batch, update, public)
                psnr, ssim = (metric(images, batch.inputs).tolist() for metric in (PSNR(), SSIM()))
                yield Row(condition, number, psnr, ssim, residual, seconds)


def run(args: argparse.Namespace) -> None:
    """Measures and records what is not on record."""
    torch.set_num_threads(args.threads)
    slug = args.attack.lower().replace(",", "").replace(" ", "_")
    path = RESULTS / f"{args.network}-{args.steps}-{slug}.json"
    kept: list[dict[str, Any]] = read(path)["rows"] if path.is_file() else []
    settings = {"network": args.network, "steps": args.steps, "attack": args.attack}
    for row in rows(args, {(r["condition"], r["batch"]) for r in kept}):
        kept.append(asdict(row))
        print(row, flush=True)
        write(path, {"conditions": conditions(args), "settings": settings, "rows": kept})


def lines() -> Iterator[str]:
    """The table of all that was recorded."""
    heads = (
        "network, evaluations",
        "update",
        "attack",
        "images",
        "mean PSNR, dB",
        "lowest to highest",
        "SSIM",
        "CPU s",
    )
    yield "| " + " | ".join(heads) + " |"
    yield "|---|---|---|---|---|---|---|---|"
    for path in sorted(RESULTS.glob("*.json")):
        record = read(path)
        for condition in CONDITIONS:
            found = [r for r in record["rows"] if r["condition"] == condition]
            if found:
                yield line(record["settings"], condition, found)


def line(settings: dict[str, Any], condition: str, found: list[dict[str, Any]]) -> str:
    """One row of the table."""
    psnr, ssim = ([v for r in found for v in r[name]] for name in ("psnr", "ssim"))
    seconds = sum(r["seconds"] for r in found) / len(found)
    columns = [
        f"{settings['network']}, {settings['steps']}",
        condition,
        settings["attack"],
        str(len(psnr)),
        f"{sum(psnr) / len(psnr):.2f}",
        f"{min(psnr):.1f} to {max(psnr):.1f}",
        f"{sum(ssim) / len(ssim):.3f}",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(columns) + " |"


def options(parser: argparse.ArgumentParser) -> None:
    """The benchmark's own."""
    parser.add_argument("--attack", default="GIAS", choices=list(attacks("", 1)))
    parser.add_argument("--generator", default="generator.safetensors")
    parser.add_argument("--network", default="cnn")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--conditions", nargs="+", default=["pruned", "noisy"], choices=list(CONDITIONS))


if __name__ == "__main__":
    run_or_table("gias", __doc__, options, run, lines)
