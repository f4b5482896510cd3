"""Image identification precision (IIP, pixels) of Robbing the Fed among rivals of the target's own class.

The paper counts a reconstruction as identified if no other picture of its class in the validation set is nearer.
CIFAR-10 has 1,000 test images a class; the 128 photographs have one, so that there rivals are of other classes. Both
references are measured here on the same reconstructions, and on mixtures, which are no reconstructions at all.

    python -m benchmarks.imprint.identification rows        # the four lines of Table 1, 20 batches of 64, 128 rows
    python -m benchmarks.imprint.identification bins        # rows from 64 to 512 (Fig. 4, left)
    python -m benchmarks.imprint.identification mixtures    # a share of the target, the rest another picture

CIFAR-10 and imagenet128 lie under FEDSPILL_DATA. Prints markdown.
"""

import argparse
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.imprint.images import cifar
from benchmarks.imprint.run import EXACT, matched, mean_and_error, read
from fedspill.core.rng import stream
from fedspill.core.types import Batch
from fedspill.inversion.imprint.making import Bins
from fedspill.scoring.identification import identify, pixel_distance
from fedspill.scoring.metrics import PSNR
from fedspill.tamperings.robbing_the_fed import CARD, RobbingTheFed
from fedspill.zoo.data import load

BATCH = 64
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
LINES = {
    "mean / normal": "paper",
    "mean / Laplace": "mean_laplace",
    "DCT 32 / Laplace": "dct_laplace",
    "random / normal": "random_normal",
}
"""Of Table 1, by preset."""
COLUMNS = "exact, % | IIP, rivals of the own class, % | IIP, 127 strangers, %"


def hits(shown: Tensor, where: Tensor, private: Batch, others: Batch) -> Tensor:
    """Which of n private examples are identified, by `shown`, matched to them at `where`."""
    return identify(shown, where, private, others, pixel_distance()).hits


def strangers(private: Batch, others: Batch) -> tuple[Batch, Batch]:
    """The same pictures as if each were alone in its class, as the 128 photographs are: all are rivals of all."""
    n = len(private)
    return replace(private, labels=torch.arange(n)), replace(others, labels=torch.arange(n, n + len(others)))


def mixed(private: Batch, share: float, seed: int) -> Tensor:
    """Each example with `share` of itself, the rest a picture drawn from those of other classes in the batch."""
    rng, partners = stream(seed, "mixtures"), list[int]()
    for label in private.labels.tolist():
        choice = (private.labels != label).nonzero()[:, 0]
        partners.append(int(choice[int(torch.randint(len(choice), (), generator=rng))]))
    return share * private.inputs + (1 - share) * private.inputs[partners]


def split(pool: Batch, number: int) -> tuple[Batch, Batch]:
    """The batch of this number, and all other pictures."""
    inside = torch.zeros(len(pool), dtype=torch.bool)
    inside[BATCH * number : BATCH * (number + 1)] = True
    return pool[inside.nonzero()[:, 0]], pool[(~inside).nonzero()[:, 0]]


def measured(tampering: RobbingTheFed, batches: int) -> dict[str, list[float]]:
    """Shares of a batch in percent: exact, identified within the class, identified among 128 strangers."""
    pool, public, model = cifar()
    found: dict[str, list[float]] = {"exact": [], "own class": [], "128 strangers": []}
    for number in range(batches):
        private, others = split(pool.batch, number)
        _, rebuilt = read(tampering, model, private, public, number)
        shown, where = matched(rebuilt, private)
        exact = PSNR()(shown, private.inputs[where]) >= EXACT
        found["exact"].append(100 * int(exact.sum()) / BATCH)
        found["own class"].append(100 * float(hits(shown, where, private, others).double().mean()))
        alone = strangers(private, others[torch.arange(BATCH)])
        found["128 strangers"].append(100 * float(hits(shown, where, *alone).double().mean()))
    return found


def line(name: str, found: dict[str, list[float]]) -> str:
    """Means and standard errors over batches."""
    return f"| {name} | " + " | ".join(mean_and_error(values) for values in found.values()) + " |"


def rows(batches: int) -> None:
    """The four functions of Table 1."""
    print(f"| function / cutoffs | {COLUMNS} |\n|---|---|---|---|")
    for name, preset in LINES.items():
        tampering = CARD.presets[preset]
        assert isinstance(tampering, RobbingTheFed)
        print(line(name, measured(tampering, batches)), flush=True)


def bins(batches: int) -> None:
    """Identification by rows."""
    print(f"| rows | {COLUMNS} |\n|---|---|---|---|")
    for count in (64, 128, 256, 512):
        tampering = RobbingTheFed(Bins(count, functions=("dct:32",), cutoffs="laplace"))
        print(line(str(count), measured(tampering, batches)), flush=True)


def mixtures(batches: int) -> None:
    """How much of another picture a metric forgives."""
    pool = load("cifar10", split="test").batch
    photographs = load("folder:imagenet128", size=224).batch
    print("| share of the target | PSNR, dB | CIFAR-10, own class | CIFAR-10, 127 strangers | 128 photographs |")
    print("|---|---|---|---|---|")
    for share in SHARES:
        level, own, alien = list[float](), list[float](), list[float]()
        for number in range(batches):
            private, others = split(pool, number)
            shown, where = mixed(private, share, number), torch.arange(BATCH)
            level.append(float(PSNR()(shown, private.inputs).mean()))
            own.append(100 * float(hits(shown, where, private, others).double().mean()))
            alone = strangers(private, others[torch.arange(BATCH)])
            alien.append(100 * float(hits(shown, where, *alone).double().mean()))
        private, others = photographs[torch.arange(BATCH)], photographs[torch.arange(BATCH, 2 * BATCH)]
        shown = mixed(private, share, 0)
        seen = int(hits(shown, torch.arange(BATCH), private, others).sum())
        print(
            f"| {share:g} | {mean_and_error(level)} | {mean_and_error(own)} % | {mean_and_error(alien)} %"
            f" | {seen} of {BATCH} |",
            flush=True,
        )


PARTS = {"rows": rows, "bins": bins, "mixtures": mixtures}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--batches", type=int, default=20)
    given = parser.parse_args()
    PARTS[given.part](given.batches)
