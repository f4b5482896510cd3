"""How often the self-check of a network's feeding speaks, of networks fed right and of networks fed wrong.

Ten trained networks: two that are shipped, four option-A ResNets of the data folder, and four that are trained here
in a minute, on pixels as they are and on digits. Each is fed right, and in three wrong ways, on test images in
batches of several sizes. Untrained networks are fed likewise.

    python -m benchmarks.feeding --out benchmarks/results/feeding.json
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

from fedspill.auditing.feeding import check_feeding
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10, IDENTITY, PLAIN, Statistics

SIZES = {1: 10, 8: 10, 64: 4, 256: 2}
"""Examples of a batch, and batches."""
HALF = Statistics((0.5,), (0.5,))
WAYS = {
    "as they are": IDENTITY,
    "[-1, 1]": HALF,
    "0.5 / 0.25": PLAIN,
    "[0, 255]": Statistics((0.0,), (1 / 255,)),
}
"""Ways to feed pictures, of which three are wrong for every network here: 0.5 / 0.25 is close to CIFAR-10's own."""
MEASURED = 128
"""Examples of an accuracy."""
SHIPPED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("lenet", {}),
    ("cnn", {}),
    ("resnet20", {}),
    ("resnet32", {}),
    ("resnet44", {}),
    ("resnet56", {}),
)


@dataclass(frozen=True)
class Case:
    """A network, as it was trained, and examples that it was not trained on."""

    name: str
    model: Model
    examples: Batch


def shipped() -> Iterator[Case]:
    """Networks whose weights are at hand, on CIFAR-10."""
    test = load("cifar10", indices="0:640").batch
    for name, options in SHIPPED:
        model = build(name, input_shape=(3, 32, 32), num_classes=10, weights="trained", options=options)
        yield Case(name, model, test)


def small() -> Iterator[Case]:
    """Networks that are trained here."""
    pictures = load("cifar10", split="train", indices="0:6000").batch
    test, (grey, grey_test) = load("cifar10", indices="0:640").batch, digits()
    yield Case("mlp, CIFAR-10's constants", trained("mlp", {"hidden": [256]}, CIFAR10, pictures, 8, 3e-4), test)
    yield Case("convnet, pixels as they are", trained("convnet", {"width": 8}, IDENTITY, pictures, 3), test)
    yield Case("mlp, digits as they are", trained("mlp", {"hidden": [64]}, IDENTITY, grey, 20), grey_test)
    yield Case("convnet, digits in [-1, 1]", trained("convnet", {"width": 4}, HALF, grey, 6), grey_test)


def digits() -> tuple[Batch, Batch]:
    """scikit-learn's 8x8 digits, doubled in size."""
    found: Any = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    labels = torch.tensor(found.target)
    return Batch(images[:1150], labels[:1150]), Batch(images[1150:], labels[1150:])


def trained(
    name: str, options: dict[str, Any], statistics: Statistics, examples: Batch, epochs: int, lr: float = 1e-3
) -> Model:
    """A network of the zoo, trained by Adam in mini-batches of 64."""
    _, channels, height, width = examples.inputs.shape
    spec = ImageSpec((channels, height, width), mean=statistics.mean, std=statistics.std)
    model = build(name, input_shape=spec.shape, num_classes=10, options=options)
    net, rng = model.module, stream(0, "feeding", name)
    net.load_state_dict({**model.params, **model.buffers})
    net.train()
    optimiser = torch.optim.Adam(net.parameters(), lr)
    for _ in range(epochs):
        for places in torch.randperm(len(examples), generator=rng).split(64):
            optimiser.zero_grad()
            part = examples[places]
            nn.functional.cross_entropy(net(spec.encode(part.inputs)), part.labels).backward()
            optimiser.step()
    return Model.of(net.eval(), spec)


def batches(examples: Batch, size: int, draws: int) -> Iterator[Batch]:
    """Disjoint batches of one size."""
    for k in range(min(draws, len(examples) // size)):
        yield examples[k * size : (k + 1) * size]


def share(model: Model, examples: Batch, size: int, draws: int) -> tuple[int, int]:
    """How often a warning is given, and of how many batches."""
    said = [check_feeding(model, part).warning is not None for part in batches(examples, size, draws)]
    return sum(said), len(said)


def wrong_ways(spec: ImageSpec) -> Iterator[tuple[str, ImageSpec]]:
    """Three that are not the right one; where CIFAR-10's constants or like ones are right, not 0.5 / 0.25 either."""
    normalised = spec.mean not in (IDENTITY.mean, HALF.mean)
    for words, statistics in WAYS.items():
        near = words == "0.5 / 0.25" and normalised
        if not near and statistics != Statistics(spec.mean, spec.std):
            yield words, replace(spec, mean=statistics.mean, std=statistics.std)


def rows(case: Case) -> Iterator[dict[str, Any]]:
    """The network fed right, and in three other ways."""
    spec = case.model.input
    assert isinstance(spec, ImageSpec)
    for words, other in (("right", spec), *wrong_ways(spec)):
        model = replace(case.model, input=other)
        accuracy = check_feeding(model, case.examples[:MEASURED], weights="untrained").accuracy
        told = {str(n): share(model, case.examples, n, draws) for n, draws in SIZES.items()}
        yield {"network": case.name, "fed": words, "accuracy": accuracy, "warned": told}


def untrained() -> Iterator[Case]:
    """Random networks of the zoo."""
    test = load("cifar10", indices="0:640").batch
    for name in ("lenet", "cnn", "mlp", "resnet20", "shufflenet_v2"):
        model = build(name, input_shape=(3, 32, 32), num_classes=10, mean=CIFAR10.mean, std=CIFAR10.std)
        yield Case(f"{name}, untrained", model, test)


def main() -> None:
    """Measures, prints, and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    found = list[dict[str, Any]]()
    for case in chain(shipped(), small(), untrained()):
        for row in rows(case):
            print(json.dumps(row), flush=True)
            found.append(row)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
