"""IR leakage rate of classification heads on CIFAR-10 test images (Maui, arXiv 2509.11451, Fig. 8), and an ablation.

The rate is the share of a batch whose representations can be read off the head's gradient: "truth" counts examples that
fire some row of the first layer alone, "blind" those that the readout certifies from one float32 gradient alone, and
"peeled" also those that it certifies after taking others away. Means +- standard error over batches; one head for all
batch sizes.

    python -m benchmarks.representations.leakage
    python -m benchmarks.representations.leakage --ablation --blind 0
    python -m benchmarks.representations.leakage --weights cnn.safetensors --cache f.pt --heads SpAB "quantile 1/100"
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.probing.head import head_module
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.network.extractor import Extractor
from fedspill.inversion.representations.heads.making import make_head
from fedspill.inversion.representations.heads.settings import PAPER, PAPER_ENTRIES, SpAB
from fedspill.inversion.representations.heads.weights import HeadWeights, Kind
from fedspill.inversion.representations.readout import read_representations
from fedspill.inversion.theory.ownership import leakage_rates
from fedspill.zoo import data, models
from fedspill.zoo.root import data_root

SIZES = (16, 64, 256)
LAYER = Layer("1.weight", "1.bias")
SAME = 1e-2
"""Relative error below which a certified representation is an example's."""

HEADS: dict[str, tuple[Kind, SpAB]] = {
    "plain": ("plain", SpAB()),
    "random": ("random", SpAB()),
    "quantile 1/100": ("quantile", SpAB()),
    "quantile 1/16": ("quantile", SpAB(quantile=1 / 16)),
    "SpAB, the paper's objective": ("spab", PAPER),
    "SpAB, the paper's objective, all entries": ("spab", PAPER_ENTRIES),
    "SpAB": ("spab", SpAB()),
}
ABLATION: dict[str, tuple[Kind, SpAB]] = {
    "SpAB": ("spab", SpAB()),
    "without expected leakage": ("spab", with_fields(SpAB(), leakage=0.0)),
    "without column sparsity": ("spab", with_fields(SpAB(), sparsity=0.0)),
    "without noise per epoch": ("spab", with_fields(SpAB(), noise=0.0)),
    "constant biases at the start": ("spab", with_fields(SpAB(), start="constant")),
    "all rows start at one rate": ("spab", with_fields(SpAB(), frequent=0.0, dense=0.0)),
    "no dense rows": ("spab", with_fields(SpAB(), dense=0.0)),
    "not whitened": ("spab", with_fields(SpAB(), shrinkage=1e4)),
    "trained for 64 only": ("spab", with_fields(SpAB(), sizes=(64,))),
    "trained on wrong labels": ("spab", SpAB(mislabel=True)),
}


@dataclass(frozen=True)
class World:
    """Representations of public and private images."""

    public: Tensor
    labels: Tensor
    private: Tensor
    private_labels: Tensor


@dataclass(frozen=True)
class Blind:
    """What the readout certifies, over batches: shares of a batch, how many are wrong, seconds for one batch."""

    direct: float
    peeled: float
    false: int
    seconds: float


def world(args: argparse.Namespace) -> World:
    if args.cache and args.cache.is_file():
        return World(**torch.load(args.cache, weights_only=True))
    root = data_root(args.data_root)
    public = data.load("cifar10", root=root, split="train", indices=range(args.public))
    private = data.load("cifar10", root=root, split="test")
    model = models.build(
        "cnn",
        input_shape=public.input_shape,
        num_classes=10,
        weights=args.weights,
        data_root=root,
        mean=public.mean,
        std=public.std,
        device=torch.device(args.device),
    )
    of = Extractor(model, head_module(model)).of
    made = World(of(public.batch.inputs), public.batch.labels, of(private.batch.inputs).cpu(), private.batch.labels)
    if args.cache:
        torch.save(vars(made), args.cache)
    return made


def truth(head: HeadWeights, features: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and standard error of the leakage rate."""
    rates = torch.cat([leakage_rates(head.outputs(f), len(f)) for f in features])
    return float(rates.mean()), float(rates.std()) / len(rates) ** 0.5


def blind(head: HeadWeights, features: Sequence[Tensor], labels: Sequence[Tensor]) -> Blind:
    """What the readout makes of real gradients; the representation stands for the image, which changes nothing."""
    length = features[0].shape[1]
    spec = ImageSpec((length, 1, 1), bounds=(-1e6, 1e6), mean=(0.0,) * length, std=(1.0,) * length)
    model = Model.of(nn.Sequential(nn.Flatten(), *head.module()), spec)
    direct, peeled, false, began = 0.0, 0.0, 0, time.perf_counter()
    for x, y in zip(features, labels, strict=True):
        update = local_update(model, Batch(x.view(*x.shape, 1, 1), y), FedSGD())
        got = read_representations(update, ServerKnowledge(model, num_examples=len(x)), LAYER)
        distance = torch.cdist(got.values, x.double()) / x.double().norm(dim=1)
        false += int((distance[got.certified].amin(1) > SAME).sum()) if len(got.marks) else 0
        direct += got.leakage_rate(len(x)) / len(features)
        peeled += int(got.certified.sum()) / len(x) / len(features)
    return Blind(direct, peeled, false, (time.perf_counter() - began) / len(features))


def batches(of: World, size: int, count: int) -> tuple[list[Tensor], list[Tensor]]:
    """Batches of random private images; disjoint as long as there are enough, then drawn from a new order."""
    orders = -(-count * size // len(of.private))
    order = torch.cat([torch.randperm(len(of.private), generator=stream(k, "batches", size)) for k in range(orders)])
    chosen = order[: count * size].split(size)
    return [of.private[c] for c in chosen], [of.private_labels[c] for c in chosen]


def row(name: str, head: HeadWeights, of: World, args: argparse.Namespace, seconds: float) -> str:
    cells = [name]
    for size in SIZES:
        features, labels = batches(of, size, args.batches)
        mean, error = truth(head, features)
        shown = f"{mean:.4f} +- {error:.4f}"
        if args.blind:
            seen = blind(head, features[: args.blind], labels[: args.blind])
            some = truth(head, features[: args.blind])[0]
            shown += (
                f" / {seen.direct:.3f} of {some:.3f} / {seen.peeled:.3f} ({seen.false} false, {seen.seconds:.2f} s)"
            )
        cells.append(shown)
    cells += [f"{head.accuracy(of.private, of.private_labels):.4f}", f"{seconds:.0f} s"]
    return "| " + " | ".join(cells) + " |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="robust", help='of the CNN: "robust", "untrained", or a path')
    parser.add_argument("--public", type=int, default=50000, help="training images that the server holds")
    parser.add_argument("--cache", type=Path, default=None, help="file in which representations are kept")
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--blind", type=int, default=5, help="batches that are read from gradients alone")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=None, help="of training; left out: the default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--heads", nargs="*", default=None, help="some rows only")
    parser.add_argument("--device", default="cpu", help="where heads are trained; they are judged on the CPU")
    parser.add_argument("--data-root", default=None)
    return parser.parse_args()


def main() -> None:
    args = parse()
    of = world(args)
    print(
        f"`python -m benchmarks.representations.leakage {shlex.join(sys.argv[1:])}`, "
        f"torch {torch.__version__}, CNN with weights"
    )
    print(
        f"{args.weights}, {len(of.public)} public images, width {args.width}, n = {args.batches}, one head per row.\n"
    )
    second = "truth / blind of truth in these batches / with peeling" if args.blind else "truth"
    print("| " + " | ".join(["head", *(f"B = {s}: {second}" for s in SIZES), "accuracy", "trained in"]) + " |")
    print("|" + "---|" * (len(SIZES) + 3))
    rows = ABLATION if args.ablation else HEADS
    for name, (kind, settings) in rows.items():
        if args.heads and name not in args.heads:
            continue
        settings = with_fields(settings, epochs=args.epochs or settings.schedule.epochs)
        began = time.perf_counter()
        head = make_head(kind, of.public, of.labels, 10, args.width, settings, stream(args.seed, "head", kind))
        head = HeadWeights(*(v.cpu() for v in vars(head).values()))
        print(row(name, head, of, args, time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main()
