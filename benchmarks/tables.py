"""Rows of Adult from one gradient: TabLeak beside the best guess and the plain cosine search, and SPEAR where it reads.

The setting of Vero et al. 2023 (arXiv 2210.01785): a network of two hidden layers of 100 units with ReLUs, untrained,
one gradient of a batch, labels and number granted. Accuracy is the paper's: the share of cells that are right, numbers
within 0.319 standard deviations, after the best matching of rows by this very score; "exact" counts whole rows with
every cell strictly right. "Trusted" is the accuracy of the quarter of the rows of which the attack is surest. The guess
is the commonest category and the median of each column in 10,000 public rows. Seconds are process time of one thread.

    python -m benchmarks.tables --sizes 8 32 --batches 5
"""

import argparse
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedspill.attacks import spear, tableak
from fedspill.attacks.tableak import TabLeak
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack
from fedspill.core.types import Batch
from fedspill.scoring.baselines import commonest_row
from fedspill.scoring.metrics.rows import EXACT_ROW, TABLEAK_ACCURACY
from fedspill.zoo import data, models


@dataclass(frozen=True)
class Row:
    """One batch.

    Attributes:
        accuracy: the paper's.
        exact: share of the rows that are right in every cell.
        trusted: accuracy of the surest quarter; None without confidences.
        certified: rows that the attack vouches for.
        false: those of them that are none of the batch.
        seconds: process time.
    """

    accuracy: float
    exact: float
    trusted: float | None
    certified: int = 0
    false: int = 0
    seconds: float = 0.0


def paired(table: TableSpec, got: Tensor, private: Tensor) -> tuple[Float[Tensor, " n"], Tensor]:
    """Each private row's score under the best matching, and the candidates that were matched."""
    metric, n, m = TABLEAK_ACCURACY.of(table), len(private), len(got)
    scores = metric(got.repeat(n, 1), private.repeat_interleave(m, 0)).view(n, m)
    rows, chosen = linear_sum_assignment(-scores.numpy())
    return scores[rows, chosen], torch.as_tensor(chosen)


def measured(attack: Attack, model: Model, batch: Batch, seed: int) -> Row | None:
    """What an attack makes of one batch; None where it does not apply."""
    knowledge = ServerKnowledge(model, num_examples=len(batch), labels=batch.labels)
    update, began = local_update(model, batch, FedSGD()), time.process_time()
    try:
        got = attack.reconstruct(update, knowledge, stream(seed, "attack"))
    except NotApplicable:
        return None
    seconds, table = time.process_time() - began, model.input
    assert isinstance(table, TableSpec)
    scores, chosen = paired(table, got.inputs, batch.inputs)
    exact = EXACT_ROW.of(table)(got.inputs[chosen], batch.inputs).mean()
    trusted = None
    if got.confidence is not None:
        surest = got.confidence[chosen].argsort(descending=True)[: max(1, len(scores) // 4)]
        trusted = float(scores[surest].mean())
    sure = [k for k, mark in enumerate(got.marks) if mark == "alone"]
    false = sum(
        not bool((EXACT_ROW.of(table)(got.inputs[k].expand_as(batch.inputs), batch.inputs) > 0).any()) for k in sure
    )
    return Row(float(scores.mean()), float(exact), trusted, len(sure), false, seconds)


def guessed(table: TableSpec, batch: Batch, public: Batch) -> Row:
    """The best guess without an update."""
    got = commonest_row(table, len(batch), public)
    exact = EXACT_ROW.of(table)(got, batch.inputs).mean()
    return Row(float(paired(table, got, batch.inputs)[0].mean()), float(exact), None)


def cut(pool: Batch, size: int, count: int) -> Iterator[Batch]:
    """Disjoint random batches."""
    order = torch.randperm(len(pool), generator=stream(0, "rows", size))
    for part in order[: size * count].split(size):
        yield pool[part]


def line(rows: Sequence[Row | None]) -> str:
    """One row of the table."""
    held = [r for r in rows if r is not None]
    if not held:
        return "does not apply | - | - | - | - | -"
    accuracy = torch.tensor([r.accuracy for r in held])
    spread = f" ± {float(accuracy.std()):.3f}" if len(held) > 1 else ""
    trusted = [r.trusted for r in held if r.trusted is not None]
    columns = [
        f"{float(accuracy.mean()):.3f}{spread}",
        f"{sum(r.exact for r in held) / len(held):.3f}",
        f"{sum(trusted) / len(trusted):.3f}" if trusted else "-",
        str(sum(r.certified for r in held)),
        str(sum(r.false for r in held)),
        f"{sum(r.seconds for r in held) / len(held):.1f}",
    ]
    return " | ".join(columns)


def attacks(steps: int, restarts: int) -> dict[str, Attack]:
    """By the names of the table."""
    plain, paper = tableak.CARD.presets["inverting_gradients"], tableak.CARD.presets["paper"]
    assert isinstance(plain, TabLeak)
    assert isinstance(paper, TabLeak)
    return {
        "cosine search, 1 run": replace(plain, steps=steps),
        "TabLeak": replace(paper, steps=steps, restarts=restarts),
        "SPEAR, half-spaces": spear.CARD.presets["quick"],
    }


def parse() -> argparse.Namespace:
    """Arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[8, 32])
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--restarts", type=int, default=30)
    return parser.parse_args()


def main() -> None:
    """Prints the table."""
    args = parse()
    torch.set_num_threads(1)
    private, public = data.load("adult", split="test"), data.load("adult", split="train", indices="0:10000")
    table = private.spec
    assert isinstance(table, TableSpec)
    print(f"`python -m benchmarks.tables {shlex.join(sys.argv[1:])}`, torch {torch.__version__}.\n")
    print("| B | attack | accuracy | exact rows | trusted | certified | false | seconds |\n|" + "---|" * 8)
    for size in args.sizes:
        held = list(cut(private.batch, size, args.batches))
        nets = [
            models.build(
                "mlp",
                input_shape=table.encoded_shape,
                spec=table,
                num_classes=2,
                seed=k,
                options={"hidden": (100, 100)},
            )
            for k in range(len(held))
        ]
        print(f"| {size} | best guess | {line([guessed(table, b, public.batch) for b in held])} |", flush=True)
        for name, attack in attacks(args.steps, args.restarts).items():
            rows = [measured(attack, m, b, k) for k, (m, b) in enumerate(zip(nets, held, strict=True))]
            print(f"| {size} | {name} | {line(rows)} |", flush=True)


if __name__ == "__main__":
    main()
