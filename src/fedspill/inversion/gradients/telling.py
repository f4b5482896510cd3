"""Which examples stand alone in a row of a gradient, or in the difference of two, whatever method is behind it.

Two rows that differ by one example, and else are multiples of each other, isolate that example: so do neighbouring bins
of an imprint, whatever their function, order, scale or place. Nothing is asked but the sketches of the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_COMMON = 4
"""Examples that two rows must share besides, and directions in which the loss must pull at these, so that it is no
chance that they are multiples there: rows of any network are alike on examples of two or three classes."""
LIVE = 1e-6
"""Share of the largest sketch of a row below which an example does not count as part of it."""


@dataclass(frozen=True)
class Told:
    """What differences of rows isolate.

    Attributes:
        examples: (n,) that a difference of two rows holds alone.
        rows: that take part in one.
    """

    examples: Bool[Tensor, " n"]
    rows: int


def told_by_pairs(
    sketches: Float[Tensor, "n rows k"], slopes: Float[Tensor, "n c"] | None, dominance: float, most: int
) -> Told:
    """Looks at all pairs of at most `most` rows.

    Args:
        sketches: of one parameter.
        slopes: of each example's loss by its logits, of length 1; None takes examples for directions, one each.
        dominance: an example is alone if in the difference its part is so many times what is left of all others.
        most: rows, the ones with the largest gradients.
    """
    examples = sketches.new_zeros(len(sketches), dtype=torch.bool)
    rows = _largest(sketches, most)
    taking = sketches.new_zeros(rows.shape[1], dtype=torch.bool)
    for i, found in enumerate(_by_example(rows, slopes, dominance)):
        examples[i] = bool(found.any())
        taking |= found
    return Told(examples, int(taking.sum()))


def _largest(sketches: Tensor, most: int) -> Tensor:
    sizes = sketches.flatten(2).norm(dim=2).sum(0)
    kept = sizes.argsort(descending=True)[:most]
    return sketches[:, kept[sizes[kept] > 0]]


def _by_example(
    rows: Float[Tensor, "n m k"], slopes: Float[Tensor, "n c"] | None, dominance: float
) -> Iterator[Bool[Tensor, " m"]]:
    """For each example the rows that, less a multiple of another row, hold it alone."""
    sizes = rows.norm(dim=2)
    live = sizes > LIVE * sizes.amax(0)
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        rest = rows[others].permute(1, 0, 2).flatten(1)
        enough = live[others].sum(0) >= LEAST_COMMON
        if slopes is not None:
            enough &= directions(slopes[others], live[others], 1 / dominance) >= LEAST_COMMON
        found = enough.new_zeros(len(enough))
        if int(enough.sum()) >= 2:
            found[enough] = _isolated(rest[enough], rows[i][enough], dominance)
        yield found


def directions(slopes: Float[Tensor, "n c"], live: Bool[Tensor, "n m"], tolerance: float) -> Int[Tensor, " m"]:
    """For each row in how many independent directions the loss pulls at the examples that are part of it.

    Args:
        tolerance: a direction that is weaker than this share of the strongest does not count.
    """
    patterns, of = live.T.unique(dim=0, return_inverse=True)
    ranks = torch.linalg.matrix_rank(patterns[:, :, None].to(slopes) * slopes, rtol=tolerance)
    return ranks[of]


def _isolated(rest: Float[Tensor, "m d"], own: Float[Tensor, "m k"], dominance: float) -> Bool[Tensor, " m"]:
    """Rows k for which a row l and a number a exist so that `own_k - a own_l` outweighs `rest_k - a rest_l`."""
    squares = rest.square().sum(1)
    factors = (rest @ rest.T) / squares  # of row l in row k
    left = (squares[:, None] - factors.square() * squares).clamp_min(0).sqrt()
    left = left.clamp_min(LIVE * squares.sqrt()[:, None])
    return (_gaps(own, factors) >= dominance * left).any(1)


def _gaps(own: Float[Tensor, "m k"], factors: Float[Tensor, "m m"]) -> Float[Tensor, "m m"]:
    """Sizes of `own_k - factors_kl own_l`."""
    squares, products = own.square().sum(1), own @ own.T
    return (squares[:, None] - 2 * factors * products + factors.square() * squares).clamp_min(0).sqrt()
