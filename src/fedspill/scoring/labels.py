"""How many inferred labels are right, without regard to their order."""

import torch
from torch import Tensor

from fedspill.core.errors import BadInput


def overlap(inferred: Tensor, true: Tensor) -> float:
    """Multiset overlap: sum over classes of min(inferred, true) counts, divided by max(m, n); in [0, 1].

    The larger size divides, so that claiming every class earns nothing. For m = n this is 1 minus half the L1
    distance of the class histograms, divided by n.

    Args:
        inferred: (m,) classes.
        true: (n,) classes; or (n, k) of several labels at once, which an inferred class (m,) each never is.

    Raises:
        BadInput: there are no true labels, or labels are not whole numbers.
    """
    if len(true) == 0:
        raise BadInput("0 true labels were got; at least 1 is needed")
    if inferred.is_floating_point() or true.is_floating_point():
        raise BadInput(f"labels of {inferred.dtype} and {true.dtype} were got; whole numbers are needed")
    if inferred.ndim != true.ndim:  # a class each, where there are several labels at once
        return 0.0
    both = torch.cat([inferred.flatten().cpu(), true.flatten().cpu()])
    classes, position = both.unique(return_inverse=True)
    split = inferred.numel()
    counts = [position[s].bincount(minlength=len(classes)) for s in (slice(split), slice(split, None))]
    return float(torch.minimum(*counts).sum()) / max(split, true.numel())
