"""How often examples own ReLUs of their own, and whether neuron exclusivity then rebuilds them exactly.

The setting of Pan et al. 2022 (arXiv 2010.13356): a fully connected network with one hidden layer of 512 units, one
gradient, a float32 client. "Holds" is the share of examples that fire two units alone, "all hold" that of batches where
every example does: known to the evaluation only. "Exact" counts, of the examples for which the condition holds, those
that the attack puts out at 60 dB or more; "read" is the share of all examples that it puts out so, "certified" how many
candidates it vouches for, "false" how many of these are no example, "number" the share of batches whose number of
examples and labels it tells right without being granted either.

    python -m benchmarks.neuron_exclusivity --batches 50
    python -m benchmarks.neuron_exclusivity --hidden 512 256 --sizes 4 8 --epochs 0
"""

import argparse
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from fedspill.attacks.nex import CARD, NEX
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.zoo import data, models
from fedspill.zoo.data import DataPool, from_tensors

EXACT = 60.0
"""dB."""


@dataclass(frozen=True)
class Row:
    """One batch.

    Attributes:
        holds: for how many examples the condition holds.
        exact: how many of these are rebuilt.
        read: how many of all examples are rebuilt.
        certified: candidates that the attack vouches for.
        false: those of them that are no example.
        worst: PSNR in dB of the worst example for which the condition holds; None if there is none.
        told: number and labels are right.
        converged: the attack's own word.
    """

    holds: int
    exact: int
    read: int
    certified: int
    false: int
    worst: float | None
    told: bool
    converged: bool


def pools() -> tuple[DataPool, DataPool]:
    """Training and test images: CIFAR-10 where FEDSPILL_DATA names it, else scikit-learn's digits."""
    if "FEDSPILL_DATA" in os.environ:
        return data.load("cifar10", split="train"), data.load("cifar10", split="test")
    images, labels = (torch.as_tensor(v) for v in load_digits(return_X_y=True))
    pixels = (images / 16).float().view(-1, 1, 8, 8)
    halves = [from_tensors(pixels[k::2], labels[k::2]) for k in (0, 1)]
    return halves[0], halves[1]


def trained(model: Model, train: Batch, epochs: int) -> Model:
    """The model after some epochs of Adam (1e-3, mini-batches of 128, no augmentation)."""
    params = {k: v.detach().clone().requires_grad_() for k, v in model.params.items()}
    optimiser = torch.optim.Adam(params.values(), 1e-3)
    for epoch in range(epochs):
        for part in torch.randperm(len(train), generator=stream(0, "train", epoch)).split(128):
            optimiser.zero_grad()
            model.loss(params, model.input.encode(train.inputs[part]), train.labels[part]).backward()
            optimiser.step()
    return model.with_params({k: v.detach() for k, v in params.items()})


def accuracy(model: Model, test: Batch) -> float:
    """Share of right answers."""
    with torch.no_grad():
        return float(
            (model.logits(model.params, model.input.encode(test.inputs)).argmax(1) == test.labels).double().mean()
        )


def cut(pool: Batch, size: int, count: int) -> Iterator[Batch]:
    """Disjoint random batches, as far as the pool reaches."""
    order = torch.randperm(len(pool), generator=stream(0, "pictures", size))
    for part in order[: size * count].split(size):
        if len(part) == size:
            yield pool[part]


def measured(attack: NEX, model: Model, batch: Batch) -> Row:
    """What the attack makes of one batch whose number and labels it is not granted."""
    update = local_update(model, batch, FedSGD())
    got = attack.reconstruct(update, ServerKnowledge(model), stream(0, "attack"))
    holds = attack.predict(model, model.input.encode(batch.inputs)).recoverable
    errors = (batch.inputs[:, None] - got.inputs[None]).double().square().flatten(2).mean(2)
    psnr = -10 * errors.clamp_min(1e-30).log10()
    best = psnr.amax(1) if len(got.inputs) else torch.zeros(len(batch))
    sure = torch.tensor([m == "alone" for m in got.marks], dtype=torch.bool)
    assert got.labels is not None
    return Row(
        holds=int(holds.sum()),
        exact=int((best[holds] >= EXACT).sum()),
        read=int((best >= EXACT).sum()),
        certified=int(sure.sum()),
        false=int((psnr[:, sure].amax(0) < EXACT).sum()) if bool(sure.any()) else 0,
        worst=float(best[holds].min()) if bool(holds.any()) else None,
        told=_same(got.labels[sure], batch.labels),
        converged=got.converged,
    )


def _same(got: Tensor, wanted: Tensor) -> bool:
    return len(got) == len(wanted) and bool((got.sort().values == wanted.sort().values).all())


def line(size: int, rows: Sequence[Row]) -> str:
    """One row of the table."""
    count = len(rows)
    holds, exact = sum(r.holds for r in rows), sum(r.exact for r in rows)
    worst = [r.worst for r in rows if r.worst is not None]
    columns = [
        f"{holds / (size * count):.3f}",
        f"{sum(r.holds == size for r in rows) / count:.2f}",
        f"{exact} of {holds}",
        f"{min(worst):.0f} dB" if worst else "-",
        f"{sum(r.read for r in rows) / (size * count):.3f}",
        f"{sum(r.certified for r in rows) / count:.2f}",
        str(sum(r.false for r in rows)),
        f"{sum(r.told for r in rows) / count:.2f}",
        f"{sum(r.converged for r in rows)} of {count}",
    ]
    return " | ".join(columns)


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[4, 8, 16, 32])
    parser.add_argument("--batches", type=int, default=50)
    parser.add_argument("--hidden", nargs="+", type=int, default=[512])
    parser.add_argument("--epochs", type=int, default=10, help="of the trained network; 0 leaves it out")
    parser.add_argument("--presets", nargs="+", default=["paper", "strong"], choices=list(CARD.presets))
    parser.add_argument("--on", default="test", choices=["test", "train"], help="which images the client holds")
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    train, test = pools()
    options = {"hidden": tuple(args.hidden)}
    fresh = models.build(
        "mlp", input_shape=train.input_shape, num_classes=10, options=options, mean=train.mean, std=train.std
    )
    nets = {"untrained": fresh}
    if args.epochs:
        nets[f"{args.epochs} epochs"] = trained(fresh, train.batch, args.epochs)
    print(f"`python -m benchmarks.neuron_exclusivity {shlex.join(sys.argv[1:])}`, torch {torch.__version__}, float32,")
    print(f"{len(train.batch)} training and {len(test.batch)} test images of {train.input_shape}.\n")
    for name, model in nets.items():
        print(f"{name}: accuracy {accuracy(model, test.batch):.3f}")
    heads = ["network", "preset", "B", "holds", "all hold", "exact", "worst of them", "read", "certified", "false"]
    print("\n| " + " | ".join([*heads, "number and labels", "converged"]) + " |\n|" + "---|" * (len(heads) + 2))
    private = (test if args.on == "test" else train).batch
    for name, model in nets.items():
        for size in args.sizes:
            for preset in args.presets:
                attack = CARD.presets[preset]
                assert isinstance(attack, NEX)
                rows = [measured(attack, model, b) for b in cut(private, size, args.batches)]
                print(f"| {name} | {preset} | {size} | {line(size, rows)} |", flush=True)


if __name__ == "__main__":
    main()
