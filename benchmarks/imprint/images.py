"""Robbing the Fed on pictures, with real gradients in float32.

    python -m benchmarks.imprint.images peeling      # 64 CIFAR-10 images, 128 rows, 20 batches
    python -m benchmarks.imprint.images curve        # rows per example, d = 1..4, n = 64, 256, 1024
    python -m benchmarks.imprint.images photographs  # 64 ImageNet photographs, 128 rows, 3 batches
    python -m benchmarks.imprint.images noise        # Laplace noise on the gradient
    python -m benchmarks.imprint.images fedavg       # 8 steps of 8 photographs

CIFAR-10 and imagenet128 lie under FEDSPILL_DATA. Prints markdown.
"""

import argparse
from collections.abc import Callable

import torch

from benchmarks.imprint.run import Found, mean_and_error, run
from fedspill.core.local_training.update import FedAvg
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Update
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.inversion.imprint.making import Bins
from fedspill.tamperings.robbing_the_fed import ImprintModule, RobbingTheFed
from fedspill.zoo.data import DataPool, load
from fedspill.zoo.models import build

PLAIN = RobbingTheFed(Bins(functions=("random",), cutoffs="auto"))


def peeled(d: int, rows: int = 128) -> RobbingTheFed:
    """As many random functions as d says, that share the rows."""
    return RobbingTheFed(Bins(rows, ("random",) * d, cutoffs="auto"), decode="peel" if d > 1 else "bins")


def cifar(width: int = 16) -> tuple[DataPool, Batch, Model]:
    """Private test images, 3,000 public training images, an untrained ResNet-18 with the CIFAR stem."""
    private = load("cifar10", split="test")
    public = load("cifar10", split="train", indices="0:3000").batch
    options = {"width": width}
    model = build(
        "resnet18", input_shape=(3, 32, 32), num_classes=10, options=options, mean=private.mean, std=private.std
    )
    return private, public, model


def line(name: str, found: list[Found]) -> str:
    """One row of a table of counts."""
    n = len(found[0].psnr)
    agree, predicted = sum(f.agree for f in found), sum(f.predicted for f in found)
    return (
        f"| {name} | {len(found)} | {mean_and_error([f.exact for f in found])} of {n}"
        f" | {mean_and_error([f.predicted for f in found])} | {agree / max(1, predicted):.1%}"
        f" | {sum(f.false for f in found)} |"
    )


HEAD = (
    "| decoder | batches | exact | predicted by h | predicted ones exact | sure and false |\n|---|---|---|---|---|---|"
)


def peeling() -> None:
    """Plain bins and d = 2, 3, 4 on the same batches."""
    private, public, model = cifar()
    print(HEAD)
    for d in (1, 2, 3, 4):
        found = [run(peeled(d), model, private.batch[64 * b : 64 * b + 64], public, b) for b in range(20)]
        print(line("plain bins" if d == 1 else f"peeling, d = {d}", found), flush=True)


def curve() -> None:
    """Exact share over rows per example; one batch per cell for n = 1024, two for 256, four for 64."""
    private, public, _ = cifar()
    model = build("mlp", input_shape=(3, 32, 32), num_classes=10, mean=private.mean, std=private.std)
    shares = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    print("| n | d | " + " | ".join(f"{s:g}" for s in shares) + " |")
    print("|---|---|" + "---|" * len(shares))
    for n, batches in ((64, 4), (256, 2), (1024, 1)):
        for d in (1, 2, 3, 4):
            cells = list[str]()
            for share in shares:
                found = [
                    run(peeled(d, round(share * n)), model, private.batch[n * b : n * b + n], public, b)
                    for b in range(batches)
                ]
                cells.append(f"{sum(f.exact for f in found) / n / batches:.2f}")
            print(f"| {n} | {d} | " + " | ".join(cells) + " |", flush=True)


def photographs_of(seed: int) -> tuple[Batch, Batch, Model]:
    """64 private photographs, the other 64 as public ones, an untrained ResNet-18 at 224x224."""
    pool = load("folder:imagenet128", size=224)
    order = torch.randperm(len(pool), generator=stream(seed, "photographs"))
    options = {"stem": "imagenet", "normalise": "imagenet"}
    model = build("resnet18", input_shape=(3, 224, 224), num_classes=1000, options=options)
    return pool.batch[order[:64]], pool.batch[order[64:]], model


def photographs() -> None:
    """Plain bins and peeling, three batches."""
    print(HEAD)
    for d in (1, 3, 4):
        found = list[Found]()
        for seed in range(3):
            private, public, model = photographs_of(seed)
            found.append(run(peeled(d), model, private, public, seed))
        print(line("plain bins" if d == 1 else f"peeling, d = {d}", found), flush=True)


def fedavg() -> None:
    """8 local steps of 8 photographs, lr 1e-4: sparse bins and ReLU bins, readout with and without drift."""
    print("| bins | throughput | exact | above 30 dB | IIP | mean dB | median dB | predicted by h |")
    print("|---|---|---|---|---|---|---|---|")
    private, public, model = photographs_of(0)
    training = FedAvg(minibatch_size=8, lr=1e-4)
    for activation in ("hardtanh", "relu"):
        for throughput in (1.0, 10.0, 100.0):
            tampering = RobbingTheFed(
                Bins(cutoffs="auto"), module=ImprintModule(activation=activation, throughput=throughput)
            )
            found = run(tampering, model, private, public, 0, training)
            counts = f"{found.exact} of 64 | {int((found.psnr > 30).sum())} | {found.identified}"
            size = f"{float(found.psnr.mean()):.2f} | {float(found.psnr.median()):.2f}"
            print(f"| {activation} | {throughput:g} | {counts} | {size} | {found.predicted} |", flush=True)


def noisy(sigma: float, relative: bool, seed: int) -> Callable[[Update], Update]:
    """Laplace noise of standard deviation sigma on every number; relative to the root mean square of the gradient."""
    defence = GradientNoise(sigma, relative)
    return lambda update: defence.noised(update, stream(seed, "noise"))


def noise() -> None:
    """Exact, identified and above 20 dB, 64 photographs; mean and normal cutoffs, gain 1 and mean loss as the paper."""
    private, public, model = photographs_of(0)
    tampering = RobbingTheFed(module=ImprintModule(throughput=128.0))
    print("| sigma | of | exact | above 20 dB | identified (IIP, pixels) | mean dB |\n|---|---|---|---|---|---|")
    for relative in (False, True):
        for sigma in (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            found = run(tampering, model, private, public, 0, change=noisy(sigma, relative, 0))
            print(
                f"| {sigma:g} | {'the rms of the gradient' if relative else 'absolute'} | {found.exact}"
                f" | {int((found.psnr > 20).sum())} | {found.identified} | {float(found.psnr.mean()):.2f} |",
                flush=True,
            )


ROWS = {"peeling": peeling, "curve": curve, "photographs": photographs, "fedavg": fedavg, "noise": noise}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    ROWS[parser.parse_args().row]()
