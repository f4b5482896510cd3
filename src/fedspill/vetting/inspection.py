"""The checks run on an incoming model. Fail closed: what could not be examined is a finding, not silence."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedspill import catalogue
from fedspill.core.inputs import kind
from fedspill.core.roles import Check, Finding, Incoming
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.vetting.policy import NOT_EXAMINED, Policy

WANTED: Mapping[str, tuple[str, str]] = {
    "reference": (
        "the agreed architecture",
        "Give the agreed architecture (--reference, or reference= in Python), built from code that the client holds.",
    ),
    "previous": (
        "the model of the round before",
        "Keep the model of every round, and give it (--previous, previous=).",
    ),
    "own_data": (
        "the client's own examples",
        "Give some of the client's examples (--own-data, own_data=); they stay on the client.",
    ),
    "checksum": (
        "the checksum of others",
        "Ask another client for the checksum of its model, and give it (--checksum).",
    ),
}
"""What may stand beside a model, in words, and how to give it."""


@dataclass(frozen=True)
class Inspected:
    """What the checks found.

    Attributes:
        findings: as the checks judge them, and of what could not be examined.
        checks: that ran.
        skipped: checks that do not apply to inputs of this kind, with the reason.
    """

    findings: tuple[Finding, ...]
    checks: tuple[str, ...]
    skipped: Mapping[str, str]


def inspected(incoming: Incoming, policy: Policy, seconds: float | None = None) -> Inspected:
    """Runs the policy's checks, and says what was required and is not at hand.

    Args:
        incoming: the model, and what stands beside it.
        policy: which checks.
        seconds: for all of them; what is not done by then is a finding. None is no limit.

    Raises:
        BadInput: the policy names a check, or a preset, that there is none of.
    """
    cards = catalogue.checks()
    chosen = [catalogue.pick(cards, entry, "check") for entry in policy.checks or cards]
    fitting = {
        name: card.presets[p] for name, p, card in chosen if isinstance(incoming.model.input, tuple(card.accepts))
    }
    skipped = {name: f"not for {kind(type(incoming.model.input))}" for name, _, _ in chosen if name not in fitting}
    if incoming.own_data is None:
        without = [name for name, _, card in chosen if card.own_data and name in fitting]
        skipped |= dict.fromkeys(without, "it wants the client's own data")
        fitting = {name: check for name, check in fitting.items() if name not in without}
    end = None if seconds is None else time.monotonic() + seconds
    found = [finding for name, check in fitting.items() for finding in _by(name, check, incoming, end)]
    return Inspected((*_absent(incoming, policy), *found), tuple(fitting), skipped)


def given(incoming: Incoming) -> dict[str, bool]:
    """Which of what may stand beside a model does."""
    return {
        "reference": incoming.reference is not None,
        "previous": incoming.previous is not None,
        "own_data": incoming.own_data is not None,
        "checksum": incoming.checksum is not None,
    }


def _by(name: str, check: Check, incoming: Incoming, end: float | None) -> list[Finding]:
    try:
        with until(end):
            return check.inspect(incoming)
    except OutOfTime:
        said = "The time that was given ended before the check had looked at the model."
        return [_not_examined(name, "time", said, "Do not train on it before it has been looked at: give more time.")]
    except Exception as error:  # of anyone's network, or anyone's check: it must not let a model pass
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        said = f"The check could not examine the model: {type(error).__name__}: {reason}."
        return [_not_examined(name, "failed", said, "Do not train on it before somebody has looked at why.")]


def _absent(incoming: Incoming, policy: Policy) -> Iterator[Finding]:
    there = given(incoming)
    for name in policy.require:
        if not there[name]:
            what, advice = WANTED[name]
            yield _not_examined(name, name, f"The policy requires {what}, and it was not given.", advice)


def _not_examined(where: str, rule: str, seen: str, advice: str) -> Finding:
    reads = (
        "What a server may have planted where nobody looked, it can read from every client that trains on the model."
    )
    return Finding(NOT_EXAMINED, where, 1.0, {"examined": 0.0}, seen, rule=rule, reads=reads, advice=advice)
