"""What images are normalised by, where nobody says it: measured on public ones."""

from typing import Any

from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.zoo.statistics import Statistics

DIGITS = 4
"""Decimals of what is measured: what a report prints can be written into a plan, and is the same then."""


def measured(images: Tensor) -> Statistics:
    """Mean and standard deviation per channel over all pixels of images (n, c, h, w), to four decimals.

    Raises:
        BadInput: a channel is constant.
    """
    channels = [images[:, c].double() for c in range(images.shape[1])]
    mean = tuple(_rounded(x.mean()) for x in channels)
    found = Statistics(mean, tuple(_rounded(x.std(correction=0)) for x in channels))
    if min(found.std) <= 0:
        raise BadInput(f"the public images have std {found.std}: a channel is constant; give mean and std")
    return found


def _rounded(value: Any) -> float:
    return round(float(value), DIGITS)
