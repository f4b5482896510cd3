"""The budget over ladders: each may use its share of what is left, and pricing has a part that searching leaves."""

from dataclasses import dataclass

from fedspill.core.errors import BadInput

SEARCHING = 0.75
"""Of the budget; the rest is for accuracy."""
AGAIN = 0.9
"""Of the budget, where nothing was found for which accuracy would be asked."""
MEASUREMENTS = 12
"""By which the budget is divided for the attacks of one plan that sets no budget of its own."""
LEAST = 5.0
"""Seconds of these."""


@dataclass
class Purse:
    """Seconds that measurements took, those of earlier calls among them: a call that goes on decides as before.

    Attributes:
        limit: of all.
        spent: so far.
        until: up to which the ladder that is walked may begin a measurement.
    """

    limit: float
    spent: float = 0.0
    until: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.limit < float("inf"):
            raise BadInput(f"budget={self.limit} must be above 0 seconds and finite")
        self.until = SEARCHING * self.limit

    def next_ladder(self, left: int) -> None:
        """Sets what the next of `left` ladders may use."""
        self.until = self.spent + max(0.0, SEARCHING * self.limit - self.spent) / left

    def once_more(self, left: int) -> None:
        """Sets what the next of `left` ladders may use that are gone on with, as nothing was found in their shares."""
        self.until = self.spent + max(0.0, AGAIN * self.limit - self.spent) / left

    def open(self) -> bool:
        """Whether the ladder may begin another measurement."""
        return self.spent < self.until

    @property
    def attacks(self) -> float:
        """Seconds for the attacks of one measured plan that sets no budget of its own."""
        return max(LEAST, round(self.limit / MEASUREMENTS, 1))
