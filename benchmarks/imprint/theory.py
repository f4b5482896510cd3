"""Who is alone in a bin, by the measurement alone: theory against counting, without any network.

    python -m benchmarks.imprint.theory expectation    # every linear function and cutoff, CIFAR-10
    python -m benchmarks.imprint.theory one-shot       # 1,000 updates of 16,384 images
    python -m benchmarks.imprint.theory ideal          # ideal counts of the peeling decoder

CIFAR-10 lies under FEDSPILL_DATA. Prints markdown.
"""

import argparse
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import stream
from fedspill.inversion.imprint.measurement import Cutoffs, edges, vector
from fedspill.inversion.theory.occupancy import (
    alone,
    alone_deviation,
    alone_expected,
    masses,
    proposition_1,
    recoverable,
)
from fedspill.tamperings.one_shot import OneShot
from fedspill.zoo.data import load

FUNCTIONS = ("mean", "dct:32", "random")
KINDS: tuple[Cutoffs, ...] = ("normal", "laplace", "fitted_normal", "fitted_laplace", "empirical")
N, K, BATCHES = 64, 128, 200


def measured(function: str, split: str, count: int, seed: int = 0) -> Float[Tensor, " n"]:
    """The measurement of normalised CIFAR-10 images."""
    pool = load("cifar10", split=split, indices=f"0:{count}")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (pool.mean, pool.std))
    z = ((pool.batch.inputs - mean) / std).flatten(1).double()
    return z @ vector(function, z.shape[1], stream(seed, "theory", function))


def expectation() -> None:
    """Mean number alone over 200 batches of 64, beside the exact expectations."""
    even = torch.full((K,), 1 / K)
    ideal = alone_expected(N, even)
    print(f"Ideal: {ideal:.2f} ± {alone_deviation(N, even):.2f} of {N}; Proposition 1: {proposition_1(N, K):.2f}.\n")
    print("| function | cutoffs | expected for them | counted (200 batches) | standard errors off | off the ideal |")
    print("|---|---|---|---|---|---|")
    for function in FUNCTIONS:
        public, private = measured(function, "train", 3000), measured(function, "test", 10_000)
        for kind in KINDS:
            ends = edges(kind, K, public)
            wanted = alone_expected(N, masses(ends, private))
            counts = torch.tensor([float(_alone(private[_drawn(b, len(private))], ends).sum()) for b in range(BATCHES)])
            error = float(counts.std()) / BATCHES**0.5
            print(
                f"| {function} | {kind} | {wanted:.2f} | {counts.mean():.2f} ± {error:.2f}"
                f" | {(float(counts.mean()) - wanted) / error:+.1f} | {float(counts.mean()) - ideal:+.1f} |"
            )


def _drawn(batch: int, total: int, n: int = N) -> Tensor:
    return torch.randperm(total, generator=stream(batch, "theory", "batch"))[:n]


def _alone(answers: Tensor, ends: Tensor) -> Tensor:
    where = torch.bucketize(answers, ends) - 1
    return alone(where.where((where >= 0) & (where < len(ends) - 1), -1))


def one_shot() -> None:
    """Share of 1,000 updates in which exactly one image falls into the bin, which lies elsewhere each time.

    One bin for all updates would hold the same one, two or three of the 40,000 images every time.
    """
    n, updates = 16_384, 1000
    print("| function | public images | share of 1,000 updates | theory | standard errors off |")
    print("|---|---|---|---|---|")
    for function in FUNCTIONS:
        public, private = measured(function, "train", 20_000), measured(function, "test", 10_000)
        private = torch.cat([private, measured(function, "train", 50_000)[20_000:]])
        places = 0.2 + 0.6 * torch.rand(updates, generator=stream(0, "theory", "places"))
        bins = [OneShot(expected=n, function=function, quantile=float(q)).ends(public) for q in places]
        drawn = (private[_drawn(u, len(private), n)] for u in range(updates))
        hits = sum(int(((h > low) & (h <= high)).sum()) == 1 for h, (low, high) in zip(drawn, bins, strict=True))
        theory = (1 - 1 / n) ** (n - 1)
        error = (theory * (1 - theory) / updates) ** 0.5
        print(
            f"| {function} | {len(public):,} | {hits / updates:.3f} | {theory:.3f}"
            f" | {(hits / updates - theory) / error:+.1f} |"
        )


def ideal() -> None:
    """Share of examples that an ideal decoder recovers, over rows per example; 20 random draws each."""
    shares = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
    print("| n | d | " + " | ".join(f"{s:g}" for s in shares) + " |")
    print("|---|---|" + "---|" * len(shares))
    for n in (64, 256, 1024):
        for d in (1, 2, 3, 4):
            rng = stream(0, "ideal", n, d)
            cells = [_ideal_share(n, d, round(s * n), rng) for s in shares]
            print(f"| {n} | {d} | " + " | ".join(f"{c:.2f}" for c in cells) + " |")


def _ideal_share(n: int, d: int, rows: int, rng: torch.Generator, draws: int = 20) -> float:
    sizes = [rows // d + (j < rows % d) for j in range(d)]
    total = 0.0
    for _ in range(draws):
        bins = torch.stack([torch.randint(max(1, k), (n,), generator=rng) for k in sizes], 1)
        total += float(recoverable(bins).double().mean())
    return total / draws


ROWS: dict[str, Callable[[], None]] = {"expectation": expectation, "one-shot": one_shot, "ideal": ideal}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    ROWS[parser.parse_args().row]()
