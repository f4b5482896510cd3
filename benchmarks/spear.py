"""How large a batch SPEAR reads whole, by the paper's samples and by half-spaces, and what it costs.

The setting of Dimitrov et al. 2024 (arXiv 2403.03945): fully connected ReLU networks of width 200, one gradient, a
float32 client, CIFAR-10 test images from 9000 on; here on one thread of a CPU. Labels and number are granted. "Whole"
is the share of batches of which every image comes out at 60 dB or more; "told" are candidates: a trained network is so
sure of some images that their gradient is lost in rounding, and the rank says so. "False" are certified candidates that
are no image. Seconds are those of one thread, process time.

    python -m benchmarks.spear --sizes 5 10 20 --batches 20
    python -m benchmarks.spear --sizes 32 64 --width 1000 --batches 3
    python -m benchmarks.spear --sizes 10 --noise 1e-4 1e-3 1e-2 1e-1
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.neuron_exclusivity import accuracy, trained
from fedspill.attacks.spear import CARD, Spear
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch, Update
from fedspill.zoo import data, models

EXACT = 60.0
"""dB."""
FIRST = 9000
"""Of the test images."""


@dataclass(frozen=True)
class Row:
    """One batch.

    Attributes:
        size: images.
        told: candidates, by the rank of the gradient.
        exact: images that come out.
        median: PSNR in dB over images.
        certified: candidates that the attack vouches for.
        false: those of them that are no image.
        converged: the attack's own word.
        seconds: process time; 0 where the attack did not apply.
    """

    size: int
    told: int = 0
    exact: int = 0
    median: float = 0.0
    certified: int = 0
    false: int = 0
    converged: bool = False
    seconds: float = 0.0


def batches(pool: Batch, size: int, count: int) -> Iterator[Batch]:
    """Consecutive images, from `FIRST` on again where the pool ends."""
    room = (len(pool) - FIRST) // size
    for k in range(count):
        start = FIRST + (k % room) * size
        yield pool[slice(start, start + size)]


def noisy(update: Update, level: float, seed: int) -> Update:
    """Gaussian noise of `level` times the update's root mean square on every value."""
    size = update.norm() / sum(v.numel() for v in update.values.values()) ** 0.5
    rng = stream(seed, "noise")
    return replace(
        update, values={k: v + level * size * randn(tuple(v.shape), rng, v) for k, v in update.values.items()}
    )


def measured(attack: Spear, model: Model, batch: Batch, level: float, seed: int) -> Row:
    """What the attack makes of one batch."""
    update = local_update(model, batch, FedSGD())
    update = noisy(update, level, seed) if level else update
    knowledge = ServerKnowledge(model, num_examples=len(batch), labels=batch.labels)
    began = time.process_time()
    try:
        got = attack.reconstruct(update, knowledge, stream(seed, "attack"))
    except NotApplicable:
        return Row(len(batch))
    seconds = time.process_time() - began
    errors = (batch.inputs[:, None] - got.inputs[None]).double().square().flatten(2).mean(2)
    psnr = -10 * errors.clamp_min(1e-30).log10()
    sure = torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)
    best = psnr.amax(1)
    return Row(
        size=len(batch),
        told=len(got.inputs),
        exact=int((best >= EXACT).sum()),
        median=float(best.median()),
        certified=int(sure.sum()),
        false=int((psnr[:, sure].amax(0) < EXACT).sum()) if bool(sure.any()) else 0,
        converged=got.converged,
        seconds=seconds,
    )


def line(rows: Sequence[Row]) -> str:
    """One row of the table."""
    total, seconds = sum(r.size for r in rows), sorted(r.seconds for r in rows)
    columns = [
        f"{sum(r.exact == r.size for r in rows)} of {len(rows)}",
        f"{sum(r.exact for r in rows)} of {total}",
        str(sum(r.told for r in rows)),
        f"{sorted(r.median for r in rows)[len(rows) // 2]:.0f}",
        str(sum(r.certified for r in rows)),
        str(sum(r.false for r in rows)),
        f"{seconds[len(seconds) // 2]:.2f} / {seconds[-1]:.2f}",
    ]
    return " | ".join(columns)


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[5, 10, 20])
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--width", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=2, help="hidden layers")
    parser.add_argument("--epochs", nargs="*", type=int, default=[0], help="of training before the gradient")
    parser.add_argument("--seeds", type=int, default=5, help="initialisations of the untrained network, in turn")
    parser.add_argument("--presets", nargs="+", default=["strong"], choices=list(CARD.presets))
    parser.add_argument("--noise", nargs="*", type=float, default=[0.0])
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    train, test = data.load("cifar10", split="train"), data.load("cifar10", split="test")
    options: dict[str, Any] = {"hidden": (args.width,) * args.hidden}
    normal = {"input_shape": train.input_shape, "num_classes": 10, "mean": train.mean, "std": train.std}
    fresh = [models.build("mlp", seed=s, options=options, **normal) for s in range(args.seeds)]
    print(f"`python -m benchmarks.spear {shlex.join(sys.argv[1:])}`, torch {torch.__version__}.\n")
    nets: dict[str, list[Model]] = {}
    for epochs in args.epochs:
        nets[f"{epochs} epochs"] = [trained(fresh[0], train.batch, epochs)] if epochs else fresh
    heads = ["network", "preset", "noise", "B", "whole", "exact", "told", "dB", "certified", "false"]
    print("| " + " | ".join([*heads, "seconds, median / most"]) + " |\n|" + "---|" * (len(heads) + 1))
    for name, held in nets.items():
        told = "untrained" if held is fresh else f"{name}, accuracy {accuracy(held[0], test.batch):.2f}"
        for preset in args.presets:
            attack = CARD.presets[preset]
            assert isinstance(attack, Spear)
            for level in args.noise:
                for size in args.sizes:
                    cut = enumerate(batches(test.batch, size, args.batches))
                    rows = [measured(attack, held[k % len(held)], b, level, k) for k, b in cut]
                    print(f"| {told} | {preset} | {level:g} | {size} | {line(rows)} |", flush=True)


if __name__ == "__main__":
    main()
