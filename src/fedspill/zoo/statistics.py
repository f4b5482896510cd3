"""What images are normalised by: mean and standard deviation per channel, for pixels in [0, 1], and who says so.

Needs no PyTorch: a word that names none is refused before that is imported.
"""

import math
from dataclasses import dataclass

from fedspill.core.errors import BadInput


@dataclass(frozen=True)
class Statistics:
    """One value per channel, or one for all."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        return f"mean {_numbers(self.mean)}, std {_numbers(self.std)}"


@dataclass(frozen=True)
class Normalisation:
    """What a network's images are normalised by.

    Attributes:
        statistics: of pixels in [0, 1].
        origin: who says so, in words.
    """

    statistics: Statistics
    origin: str


CIFAR10 = Statistics((0.49147, 0.48226, 0.44677), (0.24703, 0.24349, 0.26159))
CIFAR100 = Statistics((0.50716, 0.48669, 0.44120), (0.26733, 0.25644, 0.27615))
"""Of the training sets; Geiping et al. 2020 (arXiv 2003.14053), the authors' code."""

IMAGENET = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""torchvision's; also what the option-A CIFAR checkpoints were trained with."""

NAMED = {
    "imagenet": ("ImageNet's", IMAGENET),
    "cifar10": ("CIFAR-10's", CIFAR10),
    "cifar100": ("CIFAR-100's", CIFAR100),
}
"""Normalisations that one word states, and what messages call them."""

PLAIN = Statistics((0.5,), (0.25,))
"""For data without constants of its own: round numbers, measured on nobody's images."""

IDENTITY = Statistics((0.0,), (1.0,))
"""No normalisation, as in DLG."""


def named(word: str, who: str) -> Normalisation | None:
    """The normalisation that a word states; None if it states none.

    Args:
        who: says so, such as "the plan".
    """
    if word not in NAMED:
        return None
    whose, statistics = NAMED[word]
    return Normalisation(statistics, f"{whose}, as {who} says")


def words(*more: str) -> str:
    """The words that state a normalisation, and others, for messages."""
    return ", ".join(f'"{word}"' for word in (*more, *NAMED))


def stated(
    mean: tuple[float, ...] | None, std: tuple[float, ...] | None, ends: tuple[float, float] | None = None
) -> Statistics:
    """A normalisation in the words of a training script, for pixels in [0, 1].

    Args:
        mean: taken off the numbers of the range, per channel or one for all; None is 0.
        std: what the rest is divided by; None is 1.
        ends: what black and white are before that, such as (0, 255) or (-1, 1); None is (0, 1).

    Raises:
        BadInput: only one of mean and std, another number of values, or values that no image can be normalised by.
    """
    low, high = ends or (0.0, 1.0)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise BadInput(f"range=({low:g}, {high:g}): two numbers are needed, the first, of black, below that of white")
    if (mean is None) != (std is None):
        raise BadInput(f"mean={mean} and std={std}: both are needed, or neither")
    mean, std = mean or (0.0,), std or (1.0,)
    if not all(math.isfinite(v) for v in mean) or not all(math.isfinite(v) and v > 0 for v in std):
        raise BadInput(f"mean={mean}, std={std}: finite numbers are needed, every std above 0")
    width = high - low
    return Statistics(tuple((m - low) / width for m in mean), tuple(s / width for s in std))


def check_channels(statistics: Statistics, channels: int) -> Statistics:
    """`statistics` if there is one value, or one per channel.

    Raises:
        BadInput: there is another number.
    """
    for word, values in (("mean", statistics.mean), ("std", statistics.std)):
        if len(values) not in (1, channels):
            raise BadInput(f"normalisation {word}={values} has {len(values)} values; the data has {channels} channels")
    if min(statistics.std) <= 0:
        raise BadInput(f"normalisation std={statistics.std}: every value must be above 0")
    return statistics


def known(mean: tuple[float, ...], std: tuple[float, ...]) -> Statistics | None:
    """The constants of a data set; None if they are those that stand for data without any."""
    given = Statistics(tuple(mean), tuple(std))
    return None if given == PLAIN else given


def _numbers(values: tuple[float, ...]) -> str:
    written = [f"{v:.4g}" for v in values]
    return written[0] if len(written) == 1 else f"({', '.join(written)})"
