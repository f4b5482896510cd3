"""What the client's own update would give away, measured before it is sent.

The catalogue's readouts are run on it blind, by whoever hands `Incoming.exposure` over; the client holds the truth, and
only compares. No other check says as much: it is the leak itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.roles import Card, Check, Exposed, Finding, Incoming

NAME = "measured_exposure"


@dataclass(frozen=True)
class MeasuredExposure:
    """Reports that readouts rebuild examples of the client's from its update.

    Attributes:
        share: of the examples, those rebuilt, above which the update is not to be sent.

    Raises:
        BadInput: a field out of range.
    """

    share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise BadInput(f"share={self.share} must be at least 0 and below 1")

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """One finding, of the attack that rebuilds the most; none where nobody measures, or without own data.

        Raises:
            BadInput: the update cannot be computed.
        """
        if incoming.own_data is None or incoming.exposure is None:
            return []
        return found_in(incoming.exposure(incoming.model, incoming.own_data), self.share)


def found_in(exposed: Sequence[Exposed], share: float) -> list[Finding]:
    """What the measurement comes to; that no attack came to a result is a note, which a policy may make an alarm."""
    done = [one for one in exposed if not one.failed]
    if not done:
        return [_unmeasured(exposed)] if exposed else []
    worst = max(done, key=lambda one: int(one.read.sum()))
    read = torch.stack([one.read for one in done]).any(0)
    if float(read.double().mean()) <= share:
        return []
    return [_finding(worst, int(read.sum()), done)]


def _finding(worst: Exposed, read: int, done: Sequence[Exposed]) -> Finding:
    count = len(worst.read)
    others = sorted(one.attack for one in done if one is not worst and bool(one.read.any()))
    also = f"; so do {', '.join(others)}" if others else ""
    evidence = {"read": float(read), "examples": float(count), "by_the_best": float(worst.read.sum())}
    return Finding(
        NAME,
        "update",
        0.9,
        evidence | ({} if worst.closest is None else {"closest": worst.closest}),
        f"{read} of {count} of the client's examples are rebuilt from its own update, most of them by"
        f" {worst.attack}{also} ({worst.criterion}).",
        rule="read",
        reads=f"An honest server that keeps the update has {read} of {count} examples of this client.",
        advice="Do not send this update as it is: train on more examples at a time, clip and add noise, or let only a"
        " sum over clients be seen; then measure again.",
    )


def _unmeasured(exposed: Sequence[Exposed]) -> Finding:
    reasons = "; ".join(f"{one.attack}: {one.failed.rstrip('.')}" for one in exposed)
    return Finding(
        NAME,
        "update",
        0.4,
        {"attacks": float(len(exposed))},
        f"No attack came to a result ({reasons}), so what the update gives away is not known.",
        rule="not_measured",
        reads="What nobody measured, a server may read.",
        advice="Give it more time, or look at the update with `fedspill attack`.",
    )


CARD: Card[Check] = Card(
    title="Measured exposure",
    paper="fedspill",
    summary="Reports how many of the client's examples the catalogue's readouts rebuild from the client's own update.",
    presets={"paper": MeasuredExposure(), "quick": MeasuredExposure()},
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
    own_data=True,
)
