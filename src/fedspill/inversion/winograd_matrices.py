"""The constant matrices of Winograd's minimal filtering F(2x2, 3x3) and F(4x4, 3x3).

Lavin, Gray: "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, arXiv:1509.09308, sections 4.1 and 4.3.
"""

from functools import lru_cache

import torch
from torch import Tensor

_INPUT = {
    2: [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_WEIGHT = {
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
}
_OUTPUT = {
    2: [[1, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}


@lru_cache
def matrix(kind: str, m: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The one-dimensional map applied to rows and columns, as one matrix over flattened tiles."""
    rows = torch.tensor({"input": _INPUT, "weight": _WEIGHT, "output": _OUTPUT}[kind][m], dtype=torch.float64)
    return torch.kron(rows, rows).to(device, dtype)
