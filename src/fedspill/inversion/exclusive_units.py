"""When a batch can be rebuilt exactly from a ReLU network's gradient, by the examples themselves.

Pan et al., USENIX Security 2022, arXiv 2010.13356: an exclusively activated neuron (ExAN) is a ReLU that one example of
the batch alone fires. Each example needs two at the last ReLU layer, so that ratios show it, and one at every other.
For an evaluation that holds the examples; no attack can compute this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def owned(fired: Bool[Tensor, "n units"]) -> Int[Tensor, " n"]:
    """How many units each example fires alone."""
    return (fired & (fired.sum(0) == 1)).sum(1)


def exclusive(fired: Sequence[Bool[Tensor, "n _"]], least: int = 2) -> Bool[Tensor, " n"]:
    """Examples that own `least` units at the last ReLU layer and one at every other.

    Args:
        fired: which example fires which unit, for each ReLU layer from the first on.
        least: 2 in the paper.
    """
    counts = torch.stack([owned(f) for f in fired])
    needed = counts.new_tensor([1] * (len(fired) - 1) + [least])
    return (counts >= needed[:, None]).all(0)
