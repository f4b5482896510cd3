"""The pushes: the same update again and again, once more in a chain that was built anew, smaller, and larger."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from fedspill.core.errors import BadInput
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Offer, Refused
from fedspill.filtering.known import scaled

SMALL = 1e-6
"""Times the update; what comes out then is the noise alone."""
LARGE, HUGE = 1e3, 1e6
"""Times the update: a chain that bounds the norm sends equally much for both."""
REPEATS = 8
"""Pushes of everything but the update itself."""
AGAIN = 2
"""Pushes through a chain that was built anew."""


@dataclass(frozen=True)
class Answers:
    """What came out.

    Attributes:
        offered: what was pushed, in its usual size.
        usual: of as many pushes of that; () if the chain withheld every one.
        withheld: of these pushes, how many were withheld.
        again: of the first rounds' pushes through the same configuration built anew; () if it cannot be.
        by_scale: of pushes of the update times a factor, by the factor; () where the chain refused one.
        refused: why, by the factor.
        round: the last that was used.
    """

    offered: Params
    usual: tuple[Params, ...]
    withheld: int
    again: tuple[Params, ...]
    by_scale: dict[float, tuple[Params, ...]]
    refused: dict[float, str]
    round: int

    def at(self, scale: float) -> tuple[Params, ...]:
        """The answers to the update times a factor."""
        return self.usual if scale == 1 else self.by_scale.get(scale, ())


def pushed(chain: Chain, offer: Offer, pushes: int) -> Answers:
    """Pushes the update, and its multiples unless the chain computes the update itself.

    Args:
        pushes: of the same update, in as many rounds.

    Raises:
        BadInput: the chain refuses an ordinary update.
    """
    usual = list(_rounds(chain, offer, range(1, pushes + 1)))
    anew = chain.renewed()
    again = [] if anew is None else list(_rounds(anew, offer, range(1, AGAIN + 1)))
    by_scale, refused, last = dict[float, tuple[Params, ...]](), dict[float, str](), pushes
    for scale in () if chain.computes else (SMALL, LARGE, HUGE):
        larger = replace(offer, change=scaled(offer.change, scale))
        try:
            answers = [chain.send(replace(larger, round=last + k)) for k in range(1, REPEATS + 1)]
            by_scale[scale] = tuple(a for a in answers if a is not None)
        except Refused as error:
            by_scale[scale], refused[scale] = (), str(error)
        last += REPEATS
    sent = tuple(a for a in usual if a is not None)
    anew_sent = tuple(a for a in again if a is not None)
    return Answers(_offered(chain, offer), sent, pushes - len(sent), anew_sent, by_scale, refused, last)


def _rounds(chain: Chain, offer: Offer, rounds: range) -> Iterator[Params | None]:
    for number in rounds:
        try:
            yield chain.send(replace(offer, round=number))
        except Refused as error:
            raise BadInput(f"the chain {' > '.join(chain.steps)} refuses an ordinary update: {error}") from error


def _offered(chain: Chain, offer: Offer) -> Params:
    """Of a chain that computes the update itself, the parameters alone: no buffer was pushed."""
    if not chain.computes:
        return offer.change
    return {k: v for k, v in offer.change.items() if k in offer.model.params}
