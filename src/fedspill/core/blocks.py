"""Work on many large rows, a few at a time: what lies between stays in the cache, and is never held for all of them."""

from collections.abc import Callable

import torch
from torch import Tensor

PIECE = 2**18
"""Numbers per piece, 2 MB in float64; a photograph of 224 x 224 pixels has 150,528."""


def rows_at_once(rows: Tensor) -> int:
    """How many rows (n, ...) make a piece, at least 1."""
    return max(1, PIECE // max(1, rows.shape[1:].numel()))


def by_rows(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """`function` of rows (n, ...), which treats each row by itself, put together again."""
    return torch.cat([function(piece) for piece in rows.split(rows_at_once(rows))])
