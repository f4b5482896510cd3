"""Robbing the Fed, Fig. 11: what one linear layer gives away of 64 photographs, by how many labels they share.

    python -m benchmarks.imprint.logistic_labels             # 64, 32, 8 and 1 labels; untrained and zero weights

imagenet128 lies under FEDSPILL_DATA. Prints markdown. An example counts with the picture of its own class.
"""

import argparse
from dataclasses import replace

import torch

from fedspill.attacks.logistic_regression import CARD
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.scoring.metrics import PSNR
from fedspill.zoo.data import load
from fedspill.zoo.models import build


def row(labels: int, zero: bool, n: int, seed: int) -> str:
    """One line of the table."""
    pool = load("folder:imagenet128", size=224, indices=f"0:{n}")
    private = Batch(pool.batch.inputs, torch.arange(n) * labels // n)
    model = build(
        "mlp",
        input_shape=(3, 224, 224),
        num_classes=1000,
        options={"hidden": []},
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        seed=seed,
    )
    if zero:
        model = replace(model, params={k: torch.zeros_like(v) for k, v in model.params.items()})
    update = local_update(model, private, FedSGD())
    known = ServerKnowledge(model, num_examples=n, labels=private.labels)
    rebuilt = CARD.presets["paper"].reconstruct(update, known, stream(seed, "attack"))
    of_class = {int(label): k for k, label in enumerate(rebuilt.labels)}
    own = rebuilt.inputs[[of_class[int(label)] for label in private.labels]]
    psnr = PSNR()(own, private.inputs)
    weights = "zero" if zero else "untrained"
    return f"| {labels} | {weights} | {n} | {float(psnr.mean()):.2f} | {float(psnr.median()):.2f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    print("| labels | weights | n | PSNR, mean | median |\n|---|---|---|---|---|")
    for labels in (64, 32, 8, 1):
        for zero in (False, True):
            print(row(min(labels, args.n), zero, args.n, args.seed))


if __name__ == "__main__":
    main()
