"""Alarm levels chosen on one half of the networks, and what they find in the other, which differs in architecture.

A level lies halfway between two rungs of its dial: the laxest at which no honest model of the half raises an alarm (of
0.5 % of them one may, if they are 200 or more), and the strictest that still finds half of the planted models that the
former finds. Where the dial finds no planted model of the half it is halfway from the former to the top.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import binomtest

from benchmarks.vetting.dials import AGREED, BEFORE, DATA, DIALS, FIXED, WEIGHTS

FALSE_ALARMS, KEPT = 0.005, 0.5
Case = Mapping[str, Any]
Levels = Mapping[str, int]
"""By dial the number of rungs from which on there is an alarm."""
VIEWS: Mapping[str, tuple[str, ...]] = {
    "weights alone": (WEIGHTS,),
    "and 8 own examples": (WEIGHTS, DATA),
    "and the agreed network and, if dormant, the round before": (WEIGHTS, DATA, AGREED, BEFORE),
}
"""What stands beside the model, in words, and what can then be looked at."""
SHIPPED: Levels = {name: dial.shipped + 1 for name, dial in DIALS.items()}
"""As fedspill has them: not held out, they were chosen while looking at such networks."""


def kind(cases: Sequence[Case], what: str, half: str = "AB") -> list[Case]:
    """Honest or planted ones, of one half or both."""
    return [c for c in cases if c["kind"] == what and c["half"] in half]


def chosen(honest: Sequence[Case], planted: Sequence[Case]) -> Levels:
    """The levels by these models."""
    return {name: _level(name, honest, planted) for name in DIALS}


def _level(name: str, honest: Sequence[Case], planted: Sequence[Case]) -> int:
    top = len(DIALS[name].levels)
    told = sorted((c["rungs"].get(name, 0) for c in honest), reverse=True)
    allowed = math.floor(FALSE_ALARMS * len(told))
    low = (told[allowed] if len(told) > allowed else 0) + 1
    found = sorted(r for c in planted if (r := c["rungs"].get(name, 0)) >= low)
    high = found[math.floor((1 - KEPT) * len(found))] if found else top
    return math.ceil((low + max(low, high)) / 2)


def reasons(case: Case, levels: Levels, looks: Sequence[str]) -> list[str]:
    """What raises an alarm."""
    by_level = [n for n, r in case["rungs"].items() if DIALS[n].looks in looks and r >= levels[n]]
    return by_level + [rule for n, rules in case["fixed"].items() if FIXED[n] in looks for rule in rules]


@dataclass(frozen=True)
class Rate:
    """A share, with its 95 % interval (Clopper-Pearson), as if the models were independent."""

    hits: int
    of: int

    def __str__(self) -> str:
        if not self.of:
            return "-"
        low, high = binomtest(self.hits, self.of).proportion_ci(0.95, "exact")
        return f"{self.hits} of {self.of}, {self.hits / self.of:.1%} ({low:.1%} to {high:.1%})"

    @property
    def share(self) -> float:
        """NaN of nothing."""
        return self.hits / self.of if self.of else math.nan


def rate(cases: Sequence[Case], levels: Levels, looks: Sequence[str]) -> Rate:
    """How many raise an alarm."""
    return Rate(sum(bool(reasons(c, levels, looks)) for c in cases), len(cases))


def held(cases: Sequence[Case], half: str, without: str = "") -> Levels:
    """The levels by one half, without one tampering in all its presets and tricks."""
    planted = [c for c in kind(cases, "planted", half) if not without or tampering(c) != without]
    return chosen(kind(cases, "honest", half), planted)


def left_out(cases: Sequence[Case], name: str, looks: Sequence[str]) -> Rate:
    """A tampering found by levels that were set without it, on the half that it was not set on."""
    parts = [
        rate([c for c in kind(cases, "planted", b) if tampering(c) == name], held(cases, a, name), looks)
        for a, b in (("A", "B"), ("B", "A"))
    ]
    return Rate(sum(p.hits for p in parts), sum(p.of for p in parts))


def tampering(case: Case) -> str:
    """Its name, without the preset."""
    return str(case["entry"]).partition(":")[0]
