"""Rows of an LT code: each measures a function of its own and is active for as many examples as its degree says.

Luby, "LT Codes", FOCS 2002: coded symbols are sums of d source symbols, and d is drawn from a soliton distribution, so
that peeling goes on to the end. Public code of 2026 plants such rows in a first fully connected layer; here they stand
beside groups of bins, at equal rows (docs/peeling.md). A server cannot choose the number of examples in a row, only the
share of inputs that it is active for, d / n: the number in a batch is then spread about d.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.rng import rand, randn
from fedspill.inversion.imprint.measurement import LEAST_PUBLIC, vector

Sorting = Literal["bins", "ideal_soliton", "robust_soliton"]

C, DELTA = 0.05, 0.1
"""Luby's constants of the robust soliton: how large the ripple is to be, and how often decoding may fail."""
MOST_PUBLIC = 1024
"""Public examples by which measurements are made white; their inner products are decomposed."""


def ideal_soliton(n: int) -> Float[Tensor, " n"]:
    """Luby's ideal soliton: probability 1/n of degree 1, 1/(d (d - 1)) of degree d; float64, sums to 1."""
    degree = torch.arange(1, n + 1, dtype=torch.float64)
    inverse = 1 / (degree * (degree - 1)).clamp_min(1)
    inverse[0] = 1 / n
    return inverse


def robust_soliton(n: int, c: float = C, delta: float = DELTA) -> Float[Tensor, " n"]:
    """Luby's robust soliton: the ideal one with more rows of low degree, and a spike at degree n / R.

    Args:
        n: examples, at least 1.
        c: above 0; R = c ln(n / delta) sqrt(n) is the number of rows of degree 1 that peeling holds ready.
        delta: chance of failure, in (0, 1).
    """
    size = c * float(torch.tensor(n / delta, dtype=torch.float64).log()) * n**0.5
    spike = min(n, max(1, round(n / size)))
    extra = torch.zeros(n, dtype=torch.float64)
    extra[: spike - 1] = size / (n * torch.arange(1, spike, dtype=torch.float64))
    extra[spike - 1] = max(0.0, size / n * float(torch.tensor(size / delta, dtype=torch.float64).log()))
    both = ideal_soliton(n) + extra
    return both / both.sum()


def degrees(sorting: Sorting, rows: int, n: int, rng: torch.Generator) -> Int[Tensor, " rows"]:
    """A degree in [1, n] for each row, drawn from one of the distributions."""
    chances = ideal_soliton(n) if sorting == "ideal_soliton" else robust_soliton(n)
    drawn = rand((rows,), rng, chances)
    return torch.bucketize(drawn, chances.cumsum(0)).clamp_max(n - 1) + 1


def white_vectors(
    count: int, features: int, public: Float[Tensor, "m features"] | None, rng: torch.Generator
) -> Float[Tensor, "count features"]:
    """Random functions; with public data, such that measurements of these are uncorrelated in the mean.

    Random vectors measure pictures alike, and rows that measure alike are active for the same examples. With fewer
    than `LEAST_PUBLIC` public examples to a direction, directions would be those of these examples alone.
    """
    kept = 0 if public is None else min(len(public), MOST_PUBLIC) // LEAST_PUBLIC
    if public is None or kept < 2:
        return torch.stack([vector("random", features, rng) for _ in range(count)])
    centred = public[:MOST_PUBLIC] - public[:MOST_PUBLIC].mean(0)
    values, turn = torch.linalg.eigh(centred @ centred.T)
    values, turn = values[-kept:], turn[:, -kept:]
    usable = values > 1e-12 * float(values[-1])
    # The right singular vectors over the standard deviations along them.
    directions = (turn[:, usable] / values[usable]).T @ centred * len(centred) ** 0.5
    return randn((count, len(directions)), rng, directions) @ directions / len(directions) ** 0.5
