"""How many labels each inference method gets right, by network, protocol, batch size and repetition.

Accuracy is the multiset overlap |inferred & true| / n, averaged over seeds; a method that does not apply is "-".

    python benchmarks/label_inference.py --data cifar10 --data-root /data --seeds 5
    python benchmarks/label_inference.py --networks resnet20 --weights trained --classes 10 --data cifar10
"""

import argparse
import itertools
import shlex
import sys
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.inversion.labels.methods import METHODS, default_method, infer
from fedspill.zoo import data, models

# Narrow versions of the papers' networks: label inference sees only the head, so width costs time only.
OPTIONS = {"resnet20_4": {"width": 16}, "convnet": {"width": 16}}
PROTOCOLS: dict[str, LocalTraining] = {
    "FedSGD": FedSGD(),
    "FedAvg 1x full, lr 0.1": FedAvg(lr=0.1),
    "FedAvg E=2 B=4, lr 0.01": FedAvg(epochs=2, minibatch_size=4, lr=0.01),
}


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    network: str
    protocol: str
    repeated: bool
    size: int


def labels_for(case: Case, classes: int, real: Tensor, seed: int) -> Tensor:
    """Unique at random; or repeated, from max(1, size // 2) classes, for 10 classes those of random pictures."""
    rng = stream(seed, "labels", case.size, case.repeated)
    order = torch.randperm(classes, generator=rng)
    if not case.repeated:
        return order[: case.size]
    if classes <= 10:
        return real
    return order[torch.randint(0, max(1, case.size // 2), (case.size,), generator=rng)]


def accuracy(got: Tensor, true: Tensor) -> float:
    """Multiset overlap."""
    return sum((Counter(got.tolist()) & Counter(true.tolist())).values()) / len(true)


def chosen(pool: Batch, labels: Tensor | None, size: int, seed: int) -> Batch:
    """Pictures at random; of the wanted classes where the data have them."""
    order = torch.randperm(len(pool), generator=stream(seed, "pictures", size))
    if labels is None or int(labels.max()) > int(pool.labels.max()):
        return pool[order[:size]]
    shuffled, taken = pool[order], list[int]()
    for label in labels.tolist():
        places = (shuffled.labels == label).nonzero()[:, 0].tolist()
        taken.append(next(p for p in places if p not in taken))
    return shuffled[taken]


def trial(case: Case, model: Model, pool: Batch, classes: int, public: Batch | None, seed: int) -> dict[str, float]:
    """Accuracy of every method that applies, and of the default."""
    at_random = chosen(pool, None, case.size, seed)
    labels = labels_for(case, classes, at_random.labels, seed)
    batch = Batch(chosen(pool, labels, case.size, seed).inputs, labels)
    training = PROTOCOLS[case.protocol]
    update = local_update(model, batch, training)
    knowledge = ServerKnowledge(model, num_examples=case.size, local_training=training, public_data=public)
    found = dict[str, float]()
    for name in METHODS:
        try:
            got = infer(name, update, knowledge, case.size, stream(seed, "attack", name))
        except NotApplicable:
            continue
        found[name] = accuracy(got, labels)
    found["default"] = found[default_method(update, knowledge, case.size)]
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet20_4", "convnet", "mlp"])
    parser.add_argument("--weights", default="untrained", help="as in fedspill.zoo.models.build")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", default="photos", help="as in fedspill.zoo.data.load")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--public", type=int, default=0, help="how many public examples the server holds")
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    pool = data.load(args.data, root=args.data_root, size=32)
    everything = pool.batch
    cut = len(everything) - args.public
    private, public = everything[:cut], everything[cut:] if args.public else None
    columns = [*METHODS, "default"]
    print(f"`python {shlex.join(sys.argv)}`, torch {torch.__version__}, {args.weights} weights,")
    print(f"{args.classes} classes, n = {args.seeds} updates (seeds) per row, data {args.data}. Accuracy in %.\n")
    print("| network | protocol | labels | B | " + " | ".join(columns) + " |")
    print("|" + "---|" * (4 + len(columns)))
    for network, protocol, repeated, size in itertools.product(args.networks, PROTOCOLS, (False, True), args.sizes):
        if not repeated and size > args.classes:
            continue
        case, results = Case(network, protocol, repeated, size), list[dict[str, float]]()
        for seed in range(args.seeds):
            model = models.build(
                network,
                input_shape=(3, 32, 32),
                num_classes=args.classes,
                weights=args.weights,
                seed=seed,
                data_root=args.data_root,
                mean=pool.mean,
                std=pool.std,
                options=OPTIONS.get(network),
            )
            results.append(trial(case, model, private, args.classes, public, seed))
        cells = [[r[c] for r in results if c in r] for c in columns]
        shown = [f"{100 * sum(c) / len(c):.1f}" if c else "-" for c in cells]
        kind = "repeated" if repeated else "unique"
        print(f"| {network} | {protocol} | {kind} | {size} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
