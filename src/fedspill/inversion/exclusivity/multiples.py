"""Reading a gradient that was clipped or scaled: one factor makes the shares of all examples whole numbers of 1/n.

A share is an example's weight in the mean, read from its own direction and sizes, whose scale does not matter. Of the
mean gradient itself it is 1/n, or a multiple for an example that is there several times.
"""

from collections.abc import Callable
from dataclasses import replace

from fedspill.core.types import Params
from fedspill.inversion.exclusivity.readout import Readout
from fedspill.inversion.gradients.scale import Multiple

WHOLE = 1e-2
"""How far 1/share may be from a whole number of examples, relative."""

NOTHING = 1e-2
"""Share of the rows that may be left where what is read explains everything."""

Reads = Callable[[Params, int | None, float], Readout]
"""A gradient, n and the rounding of one entry to what is read."""


def read_in_scale(read: Reads, gradient: Params, count: int | None, noise: float, told: Multiple | None) -> Readout:
    """What is read of a gradient, or of a multiple of it, in the scale of the gradient.

    Args:
        read: how.
        gradient: float64, of one step.
        count: n, if granted.
        noise: standard deviation of absolute rounding in one entry.
        told: the factor, as the classification layer tells it.
    """
    plain = read(gradient, count, noise)
    if not plain.shares or _credible(plain, count, told):
        return plain
    factor, number = _multiple(plain.shares, count, told)
    if factor is None:
        return plain
    again = read({k: v / factor for k, v in gradient.items()}, number, noise / factor)
    if count is None and told is None and again.certified > 0:  # more may be found than were seen at first
        number, factor = again.certified, again.certified * min(plain.shares)
        again = read({k: v / factor for k, v in gradient.items()}, number, noise / factor)
    if _distinct(again) < _distinct(plain) or again.unexplained > plain.unexplained:
        return plain
    # Neither n nor the factor is known: those that are certified are all only if they explain everything.
    guessed = count is None and told is None and not again.complete
    return replace(again, multiple=1.0, count=None) if guessed else replace(again, multiple=factor)


def _distinct(read: Readout) -> int:
    return sum(r.mark == "alone" for r in read.found)


def _credible(read: Readout, count: int | None, told: Multiple | None) -> bool:
    """What was read fits the mean gradient itself: whole numbers of copies, no more than there are examples."""
    copies = [r.copies for r in read.found if r.mark == "alone"]
    if not copies or ((told is not None and not told.allows(1.0)) and not (read.complete and count is not None)):
        return False
    if count is None:
        whole = 1 / min(read.shares)
        if read.unexplained < NOTHING and sum(copies) < whole / 2:
            return False  # most examples would send nothing at all
        return whole > 0.5 and abs(whole - round(whole)) < WHOLE * whole
    # Examples that are all there equally often, and others that are not read: rather a factor.
    often = len(copies) > 1 and min(copies) == max(copies) > 1
    return sum(copies) <= count and (read.complete or (sum(copies) < count and not often))


def _multiple(shares: tuple[float, ...], count: int | None, told: Multiple | None) -> tuple[float | None, int | None]:
    """The factor and n: the smallest share is one example's, or what the classification layer allows instead."""
    least = min(shares)
    if count is None:
        count = max(1, round(told.factor / least)) if told else sum(round(s / least) for s in shares)
        return count * least, count
    factors = [count * least / copies for copies in range(1, count + 1)]
    allowed = [f for f in factors if told is None or told.allows(f)]
    return (allowed[0] if allowed else None), count
