"""Distances between all pairs of two sets, in float64 and in bounded memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.scoring.images import PIECE, pieces


def same_examples(first: Tensor, second: Tensor) -> None:
    """Checks that the examples of two sets have one shape.

    Raises:
        BadInput: they do not.
    """
    if first.shape[1:] != second.shape[1:]:
        raise BadInput(
            f"examples of shapes {tuple(first.shape[1:])} and {tuple(second.shape[1:])} were got;"
            " examples of one shape are needed"
        )


def squared_errors(first: Float[Tensor, "m ..."], second: Float[Tensor, "n ..."]) -> Float[Tensor, "m n"]:
    """Sum of squared differences for each pair.

    Differences are taken before squaring: |a|^2 + |b|^2 - 2ab would cancel just where examples agree.

    Args:
        first: m examples of any floating dtype.
        second: n examples of the same shape.

    Returns:
        Non-negative float64 numbers in squared input units, on the device of `second`.

    Raises:
        BadInput: the examples' shapes differ.
    """
    same_examples(first, second)
    a, b = first.to(second.device).flatten(1), second.flatten(1)
    total = b.new_zeros((len(a), len(b)), dtype=torch.float64)
    for part in pieces(a.shape[1], len(a) + len(b), 16 * PIECE):
        exact = torch.cdist(a[:, part].double(), b[:, part].double(), compute_mode="donot_use_mm_for_euclid_dist")
        total += exact.square()
    return total


def differing(first: Tensor, second: Tensor) -> Float[Tensor, "m n"]:
    """Number of positions at which two token sequences differ, for each pair.

    Raises:
        BadInput: the examples' shapes differ.
    """
    same_examples(first, second)
    a, b = first.to(second.device).flatten(1), second.flatten(1)
    rows = [(row != b).sum(1, dtype=torch.float64) for row in a]
    return torch.stack(rows) if rows else b.new_zeros((0, len(b)), dtype=torch.float64)
