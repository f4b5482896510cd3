"""R-GAP on its own networks, published and strong, and its rank analysis against where the recursion ends.

CNN6 and CNN6-d of Zhu and Blaschko (ICLR 2021, arXiv 2010.07733, the authors' code): untrained, no biases, LeakyReLU of
slope 0.2, one logistic output, CIFAR-10 as pixels from 0 to 1, one image an update, float32. Their demonstration sets
the label opposite to the prediction, so that the last layer's equation has one root, and grants it; here the same, and
on request other heads and labels that are not granted. A public run of another implementation shows
49.01 dB on one image of a CNN6 with ten classes and a bias. Seconds are those of one thread, process time.

    python -m benchmarks.rgap attack --images 10
    python -m benchmarks.rgap rank --images 5 --networks lenet convnet resnet20_4 resnet18 CNN6 CNN6-d
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from fedspill.attacks.rgap import CARD
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.losses import BinaryCrossEntropy
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals, stream
from fedspill.core.types import Batch
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Recursion
from fedspill.inversion.recursion.rank_analysis import rank_analysis
from fedspill.inversion.recursion.single_head import heads_of_one
from fedspill.zoo import data
from fedspill.zoo.models import build

FIRST = 9000
"""Of the test images."""
WIDTHS = {"CNN6": (12, 36, 36, 36, 64, 128), "CNN6-d": (12, 20, 36, 36, 64, 128)}
STRIDES = (2, 2, 1, 1, 2, 1)
Outputs = int


def cnn6(widths: tuple[int, ...], outputs: Outputs, *, bias: bool = False) -> nn.Module:
    """Six convolutions and a linear layer: takes (n, 3, 32, 32), returns (n, outputs).

    Args:
        bias: of the last layer; the others have none.
    """
    layers, inside = list[nn.Module](), 3
    for k, (width, stride) in enumerate(zip(widths, STRIDES, strict=True)):
        kernel, padding = (4, 2) if k == 0 else (3, 1)
        layers += [nn.Conv2d(inside, width, kernel, stride, padding, bias=False), nn.LeakyReLU(0.2)]
        inside = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(25 * inside, outputs, bias=bias))


@dataclass(frozen=True)
class Setting:
    """A network's head and what is granted.

    Attributes:
        outputs: 1 for the logistic loss, else classes.
        label: of an image, by its class and the network's logits.
    """

    outputs: int
    bias: bool
    granted: bool
    label: Callable[[int, torch.Tensor], int]


SETTINGS = {
    "one output, label opposite, granted": Setting(1, False, True, lambda _, logits: int(logits <= 0)),
    "one output, label of its own, not granted": Setting(1, False, False, lambda label, _: label % 2),
    "ten classes, bias, granted": Setting(10, True, True, lambda label, _: label),
    "ten classes, no bias, not granted": Setting(10, False, False, lambda label, _: label),
}


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        psnr: dB; None where the attack did not apply.
        confidence: the attack's own.
        seconds: process time.
    """

    psnr: float | None
    confidence: float
    converged: bool
    seconds: float
    notes: tuple[str, ...] = ()


def model_of(widths: tuple[int, ...], setting: Setting, seed: int) -> Model:
    """Untrained, as PyTorch draws it."""
    with seeded_globals(stream(seed, "cnn6")):
        net = cnn6(widths, setting.outputs, bias=setting.bias)
    loss = BinaryCrossEntropy() if setting.outputs == 1 else nn.functional.cross_entropy
    return Model.of(net, ImageSpec((3, 32, 32)), loss)


def measured(preset: str, model: Model, setting: Setting, image: Batch) -> Row:
    """What the attack makes of one image."""
    with torch.no_grad():
        logits = model.logits(model.params, model.input.encode(image.inputs))
    label = torch.tensor([setting.label(int(image.labels[0]), logits[0, 0])])
    update = local_update(model, Batch(image.inputs, label), FedSGD())
    knowledge = ServerKnowledge(model, num_examples=1, labels=label if setting.granted else None)
    began = time.process_time()
    try:
        got = CARD.presets[preset].reconstruct(update, knowledge, stream(0, "attack"))
    except NotApplicable as error:
        return Row(None, 0.0, False, time.process_time() - began, (str(error),))
    seconds = time.process_time() - began
    error = (got.inputs - image.inputs).double().square().mean().clamp_min(1e-30)
    trust = 0.0 if got.confidence is None else float(got.confidence.min())
    return Row(float(-10 * error.log10()), trust, got.converged, seconds, got.notes)


def line(rows: list[Row]) -> str:
    """One row of the table."""
    told = [r.psnr for r in rows if r.psnr is not None]
    if not told:
        return f"none of {len(rows)} | | | |"
    seconds = sorted(r.seconds for r in rows)
    mean = sum(told) / len(told)
    return (
        f"{len(told)} of {len(rows)} | {mean:.1f} | {min(told):.1f} | {sum(r.converged for r in rows)} |"
        f" {seconds[len(seconds) // 2]:.0f}"
    )


def images(count: int) -> Iterator[Batch]:
    """Single images from `FIRST` on."""
    pool = data.load("cifar10", split="test").batch
    return (pool[slice(FIRST + k, FIRST + k + 1)] for k in range(count))


def attack(args: argparse.Namespace) -> None:
    """Prints the table of both presets."""
    print("| network | head | preset | read | mean dB | least | converged | seconds, median |\n|" + "---|" * 8)
    for name in (n for n in args.networks if n in WIDTHS):
        for head in args.heads:
            setting = SETTINGS[head]
            for preset in args.presets:
                rows = list[Row]()
                for seed, image in enumerate(images(args.images)):
                    row = measured(preset, model_of(WIDTHS[name], setting, seed), setting, image)
                    rows.append(row)
                    if args.verbose:
                        print(seed, row, file=sys.stderr, flush=True)
                print(f"| {name} | {head} | {preset} | {line(rows)} |", flush=True)


ZOO = ("lenet", "convnet", "resnet20_4", "resnet18")


def known_layers(model: Model, image: Batch, label: torch.Tensor) -> set[str]:
    """The layers whose inputs the recursion reads from one image's float32 gradient."""
    flow, gradient = Dataflow(model), local_update(model, Batch(image.inputs, label), FedSGD()).values
    head = heads_of_one(model, flow, gradient, label)[0]
    with torch.no_grad():
        recursion = Recursion(flow, gradient, head)
        recursion.run()
    calls = [n for n in flow if isinstance(flow.module(n), nn.Conv2d | nn.Linear)]
    return {str(n.target) for n in calls if recursion.complete(flow.inputs(n)[0])}


def predicted(model: Model) -> tuple[list[str], set[str]]:
    """All layers, and those whose inputs the ranks say are read."""
    ranks = rank_analysis(model)
    reached = {name for r in ranks if r.reached for name in r.layers}
    return [name for r in ranks for name in r.layers], reached


def rank(args: argparse.Namespace) -> None:
    """Prints where the recursion ends, by the ranks and in fact."""
    print("| network | layers | read, by the ranks | read in fact, by image | agree | seconds of the ranks |")
    print("|" + "---|" * 6)
    for name in args.networks:
        model = untrained(name)
        began = time.process_time()
        layers, said = predicted(model)
        seconds = time.process_time() - began
        found = [known_layers(model, image, label_of(model, image)) for image in images(args.images)]
        read = ", ".join(str(len(known)) for known in found)
        agree = sum(known == said for known in found)
        told = f"{len(layers)} | {len(said)} | {read} | {agree} of {len(found)} | {seconds:.0f}"
        print(f"| {name} | {told} |", flush=True)
        for known in found if args.verbose else ():
            print(f"more: {sorted(known - said)}, less: {sorted(said - known)}", file=sys.stderr, flush=True)


def untrained(name: str) -> Model:
    """A network of R-GAP with one output, or of the zoo with ten classes."""
    if name in WIDTHS:
        return model_of(WIDTHS[name], next(iter(SETTINGS.values())), 0)
    pool = data.load("cifar10", split="test")
    return build(name, input_shape=(3, 32, 32), num_classes=10, mean=pool.mean, std=pool.std)


def label_of(model: Model, image: Batch) -> torch.Tensor:
    """The image's class; of one output the label that is not predicted."""
    with torch.no_grad():
        logits = model.logits(model.params, model.input.encode(image.inputs))
    return image.labels if logits.shape[1] > 1 else (logits[:, 0] <= 0).long()


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attack", "rank"))
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--networks", nargs="+", default=list(WIDTHS), choices=[*ZOO, *WIDTHS])
    parser.add_argument("--heads", nargs="+", default=list(SETTINGS)[:1], choices=list(SETTINGS))
    parser.add_argument("--presets", nargs="+", default=["paper", "strong"], choices=list(CARD.presets))
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Prints a table."""
    args = parse()
    torch.set_num_threads(1)
    print(f"`python -m benchmarks.rgap {shlex.join(sys.argv[1:])}`, torch {torch.__version__}.\n")
    (attack if args.what == "attack" else rank)(args)


if __name__ == "__main__":
    main()
