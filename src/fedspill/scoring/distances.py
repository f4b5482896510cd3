"""Distances between all pairs of two sets, in float64 and in bounded memory."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.inputs import CategoricalColumn, Column, TableSpec
from fedspill.scoring.pairs import PIECE, pieces


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
    for piece in pieces(a.shape[1], len(a) + len(b), 16 * PIECE):
        exact = torch.cdist(a[:, piece].double(), b[:, piece].double(), compute_mode="donot_use_mm_for_euclid_dist")
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


def mixed(first: Tensor, second: Tensor, table: TableSpec) -> Float[Tensor, "m n"]:
    """Distance of table rows, summed over the columns: each adds between 0 and 1 (after Gower 1971).

    A category adds 0 if it is the same and 1 if not, a number its difference in standard deviations, at most 1 (Gower
    divides by the range, by which a skewed column would hardly count). It obeys the triangle inequality.

    Args:
        first: (m, columns) rows.
        second: (n, columns) rows.

    Raises:
        BadInput: the rows do not fit each other or the table.
    """
    same_examples(first, second)
    if second.ndim != 2 or second.shape[1] != len(table.columns):
        raise BadInput(f"rows of shape {tuple(second.shape)} were got; (n, {len(table.columns)} columns) are needed")
    total = second.new_zeros((len(first), len(second)), dtype=torch.float64)
    for column, a, b in zip(table.columns, first.to(second.device).T, second.T, strict=True):
        total += _column_distance(column, a.double()[:, None], b.double()[None])
    return total


def _column_distance(column: Column, a: Tensor, b: Tensor) -> Tensor:
    if isinstance(column, CategoricalColumn):
        return (a != b).double()
    return ((a - b).abs() / column.std).clamp(max=1)


def distances(first: Tensor, second: Tensor, table: TableSpec | None = None) -> Float[Tensor, "m n"]:
    """The distance that suits the inputs: of rows of a table, of floats (root of the squared error), or of tokens.

    All obey the triangle inequality, so an exact copy never loses its example to an assignment of less total distance.

    Raises:
        BadInput: the examples' shapes differ, or do not fit the table.
    """
    if table is not None:
        return mixed(first, second, table)
    if second.is_floating_point():
        return squared_errors(first, second).sqrt()
    return differing(first, second)
