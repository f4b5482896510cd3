"""Batches through convolutional networks: pictures from one gradient, the features at the head being known.

    python -m benchmarks.batches.convolutional --out benchmarks/results/batches_convolutional.md

CIFAR-10 test images, one float32 gradient in eval mode, untrained networks, labels granted. The whole way from the
update, `softmax_disaggregation:strong`; with `--true-features` the features at the head are those of a forward pass,
each value off by 1e-7.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import fedspill
from benchmarks.batches.measuring import matched
from fedspill.attacks.softmax_disaggregation import CARD
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, seeded_globals, stream
from fedspill.core.tensor_files import write_whole
from fedspill.core.types import Batch
from fedspill.inversion.recursion.batch import read_batch
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.zoo import data, models

FIRST = 9000
"""Test images below this number may have chosen settings."""
OFF = 1e-7
"""Relative error of the features."""
EXACT = 60.0
"""PSNR in dB from which on a picture counts as exact."""
WIDTHS = (64, None, 128, None, 256, 256, None, 512, 512, None, 512, 512, None)
"""Of the convolutions of VGG-11; None is a pool."""


def vgg11() -> nn.Module:
    """VGG-11 for pictures of 32x32, with two fully connected layers before the head."""
    layers, inside = list[nn.Module](), 3
    for width in WIDTHS:
        layers += [nn.MaxPool2d(2)] if width is None else [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
        inside = width or inside
    hidden = [nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *hidden)


def lenet5() -> nn.Module:
    """The CNN of the tutorials of federated learning: two convolutions with pools, three fully connected layers."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


OWN: dict[str, Callable[[], nn.Module]] = {"vgg11": vgg11, "lenet5": lenet5}
NETWORKS = ("resnet18", "resnet34", "lenet", "lenet5", "convnet", "vgg11")


@dataclass(frozen=True)
class Row:
    """What came of one batch.

    Attributes:
        told: how far it was read.
        psnr: of every picture, in dB; empty if none was made.
        certain: of every picture, whether it was certified.
        seconds: of the processor.
    """

    told: str
    psnr: tuple[float, ...]
    certain: tuple[bool, ...]
    seconds: float


def built(name: str, seed: int) -> Model:
    """An untrained network; the seed draws its weights."""
    pool = data.load("cifar10", split="test", indices=[0])
    if name in OWN:
        with seeded_globals(stream(seed, name)):
            return Model.of(OWN[name]().eval(), ImageSpec(pool.input_shape, mean=pool.mean, std=pool.std))
    return models.build(
        name, input_shape=pool.input_shape, num_classes=pool.num_classes, seed=seed, mean=pool.mean, std=pool.std
    )


def read(model: Model, private: Batch) -> Row:
    """One batch from its update."""
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, num_examples=len(private), labels=private.labels)
    began = time.process_time()
    try:
        got = CARD.presets["strong"].reconstruct(update, knowledge, stream(0, "start"))
    except NotApplicable as error:
        return Row(str(error), (), (), time.process_time() - began)
    seconds = time.process_time() - began
    psnr, found = matched(got.inputs, private.inputs)
    assert got.confidence is not None
    told = got.notes[0].partition("layer by layer: ")[2].partition(". ")[0]
    return Row(told, tuple(psnr.tolist()), tuple((got.confidence[found] == 1).tolist()), seconds)


def read_below(model: Model, private: Batch) -> Row:
    """The same with the features at the head."""
    gradient = local_update(model, private, FedSGD()).values
    z = model.input.encode(private.inputs)
    features, residuals = at_head(model, z.double(), private.labels)
    began = time.process_time()
    reading = read_batch(model, gradient, features, residuals, stream(0, "start"))
    seconds = time.process_time() - began
    if reading.pictures is None:
        return Row(reading.described(), (), (), seconds)
    off = (model.input.decode(reading.pictures) - private.inputs).flatten(1).square().mean(1)
    return Row(reading.described(), tuple((-10 * off.log10()).tolist()), tuple(reading.certain.tolist()), seconds)


def at_head(model: Model, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Features, a little off, and probabilities less labels."""
    flow = Dataflow(model, examples=len(z))
    with torch.no_grad():
        features, logits = flow.until([flow.inputs(flow.output)[0].name, flow.output.name])(z)
    noise = randn(tuple(features.shape), stream(0, "features"), features)
    return features * (1 + OFF * noise), logits.softmax(1) - functional.one_hot(labels, logits.shape[1])


def described(name: str, first: int, private: Batch, row: Row) -> str:
    """One line of the table."""
    values = " / ".join(f"{v:.1f}" for v in row.psnr) or "none"
    exact, certain = sum(v >= EXACT for v in row.psnr), sum(row.certain)
    wrong = sum(c and v < EXACT for c, v in zip(row.certain, row.psnr, strict=True))
    labels = " ".join(map(str, private.labels.tolist()))
    return (
        f"| {name} | {len(private)} | {first} | {labels} | {row.told} | {values} | {exact} | {certain}"
        f" | {wrong} | {row.seconds:.0f} |"
    )


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=[2, 4, 8])
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--first", type=int, default=FIRST, help="number of the first image")
    parser.add_argument("--true-features", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"`python -m benchmarks.batches.convolutional {shlex.join(sys.argv[1:])}`, fedspill {fedspill.__version__},"
        f" torch {torch.__version__}, one thread, float32 gradients.",
        "",
        "| network | batch | first image | labels | known at the end | PSNR in dB, each picture | exact | certain"
        " | certain and wrong | processor seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in given.networks:
        model = built(name, given.seed)
        for size in given.sizes:
            for first in range(given.first, given.first + given.batches * size, size):
                private = data.load("cifar10", split="test", indices=range(first, first + size)).batch
                row = (read_below if given.true_features else read)(model, private)
                lines.append(described(name, first, private, row))
                print(lines[-1], flush=True)
                if given.out is not None:
                    write_whole(given.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
