"""How many examples speak: the rank that the spectrum of the head's gradient shows above its rounding.

An example of which the network is sure sends next to nothing, and cannot be solved for.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

ABOVE = 4.0
"""Singular values this many times above rounding, or above those beyond the batch's own, belong to an example."""


QUIETEST = 1e-6
"""Share of the loudest row's noise that is in every row at least."""
LADDER = (QUIETEST, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 10.0, 1e3)
"""Shares of the loudest row's rounding that may have been added to all rows alike."""


def rounding(rows: Float[Tensor, "classes k"], noise: float) -> float:
    """The largest singular value that rounding alone would give a gradient of this size.

    Args:
        rows: the gradient.
        noise: the unit of rounding.
    """
    unit = noise / 4  # the standard deviation of rounding to nearest, about
    typical = float(rows.double().square().mean().sqrt())
    return unit * typical * (rows.shape[0] ** 0.5 + rows.shape[1] ** 0.5)


def row_noise(rows: Float[Tensor, "classes k"], most: int, noise: float) -> Float[Tensor, " classes"]:
    """The standard deviation of the noise in each class's row, by entry.

    Rounding is in proportion to a row, so that the rows of classes for which nobody is taken are as exact as the loud
    ones, and it is in them that quiet examples, and those of one class, show. Noise that was added is not: as much of
    it is assumed as the spectrum beyond the batch's own examples demands.

    Args:
        rows: the gradient, in float64.
        most: examples in the batch.
        noise: the unit of rounding.
    """
    rounded = noise / 4 * rows.norm(dim=1) / rows.shape[1] ** 0.5
    loudest = rounded.max().clamp_min(1e-300)
    if min(rows.shape) <= most + 1 or not bool(rounded.any()):
        return loudest.expand_as(rounded)  # nothing is beyond
    small, most_noise = torch.linalg.qr(rows.T, mode="r").R.T, ABOVE * sum(n**0.5 for n in rows.shape)
    spread = rounded
    for added in LADDER:
        spread = (rounded.square() + (added * loudest).square()).sqrt()
        if float(torch.linalg.svdvals(small / spread[:, None])[most]) <= most_noise:
            break
    return spread


def own_noise(
    rows: Float[Tensor, "classes k"], labels: Int[Tensor, " m"], shares: Float[Tensor, " m"], noise: float
) -> Float[Tensor, " classes"]:
    """The same of what rounding does to 1 - p of the examples' own classes; a row that ends in the bias's is assumed.

    Where the network is sure, 1 - p is computed as a difference of numbers near 1, and is as wrong as these. Nothing is
    assumed where the bias's gradient was not sent for any of these classes.
    """
    own = rows[labels.unique()]
    own = own[own[:, -1] != 0]
    if not len(own):
        return torch.zeros_like(rows[:, 0])
    size = (own.norm(dim=1) / own[:, -1].abs()).min()
    squares = torch.zeros_like(rows[:, 0]).index_add(0, labels, shares.square())
    return noise / 4 * size * squares.sqrt() / rows.shape[1] ** 0.5


def speaking(sizes: Float[Tensor, " r"], most: int, floor: float) -> int:
    """How many examples show in a gradient's spectrum.

    Args:
        sizes: singular values, largest first.
        most: examples in the batch; what the spectrum holds beyond them is noise.
        floor: what rounding would leave.
    """
    beyond = float(sizes[most]) if len(sizes) > most + 1 else 0.0  # the last is 0: classes add up to nothing
    return int((sizes[:most] > ABOVE * max(floor, beyond, 1e-300)).sum())


def disturbed(sizes: Float[Tensor, " r"], most: int) -> float:
    """How much of a gradient is noise, relative to its size: judged by what its spectrum holds beyond the batch.

    Of as many examples as can be told apart that is the sum over the classes alone, which noise moves away from 0.
    """
    beyond = float(sizes[most]) if len(sizes) > most else 0.0
    return beyond * most**0.5 / float(sizes.norm().clamp_min(1e-300))


def scatter(rows: Float[Tensor, "out k"], known: int) -> float:
    """The standard deviation of what disturbs each entry of a gradient, by what its spectrum holds beyond the examples.

    Args:
        rows: the gradient.
        known: examples that it is made of.
    """
    out, k = rows.shape
    beyond = torch.linalg.svdvals(rows.double())[known:]
    return float(beyond.norm()) / max(1, (out - known) * (k - known)) ** 0.5


def precision_of(values: Sequence[Tensor]) -> torch.dtype:
    """The coarsest floating type whose numbers all of these are: an update may be sent wider than it was computed."""
    for dtype in (torch.bfloat16, torch.float16):
        if all(bool((v.to(dtype).to(v) == v).all()) for v in values):
            return dtype
    single = all(bool((v.float().to(v) == v).all()) for v in values)
    return torch.float32 if single else torch.float64


def heard_examples(rows: Float[Tensor, "classes k"], noise: float) -> int:
    """How many examples a gradient shows where their number is not known; at least 1."""
    sizes = torch.linalg.svdvals(rows.double())
    return max(1, int((sizes > ABOVE * rounding(rows, noise)).sum()))
