"""What is on record of a sweep: one row per trial, which its table, its plots and its exports are drawn from."""

from typing import Any, Literal

from pydantic import Field

from fedspill.report.trial import Record

TrialState = Literal["waiting", "running", "done", "refused", "failed"]
"""refused: the plan's combination cannot be run, `error` says why; failed: it should have been and was not."""


class Outcome(Record):
    """What a row keeps of one audit.

    Attributes:
        state: done, refused or failed.
        verdict: its word; None if there is none.
        leaked: private examples that any attack leaked; None if nothing was judged.
        examples: of how many.
        metric: by which the closest reconstruction of each example is chosen, with its unit.
        scored: private examples that have one; worst, median and mean are over these.
        worst: the closest of all.
        guessed: the mean over all private examples, where each that has none counts as a guess without the update.
        epsilon: the smallest that is proven of one update, with its delta; None if nothing is.
        accuracy: after a short training, if the plan asked for one.
        seconds: that the audit took.
        timed: attacks' trials whose result depends on the clock: ended or shortened by the budget.
        skipped: why attacks were not run, if any were not.
        error: why the trial was refused, or failed.
        peak: bytes that its process held at most, if that is known.
    """

    state: Literal["done", "refused", "failed"]
    verdict: str | None = None
    leaked: int | None = None
    examples: int | None = None
    metric: str | None = None
    unit: str | None = None
    scored: int = 0
    worst: float | None = None
    median: float | None = None
    mean: float | None = None
    guessed: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    accuracy: float | None = None
    seconds: float = 0.0
    timed: int = 0
    skipped: str | None = None
    error: str | None = None
    device: str | None = None
    fedspill: str | None = None
    torch: str | None = None
    python: str | None = None
    peak: int | None = None

    @property
    def share(self) -> float | None:
        """Of the private examples that leaked, in [0, 1]; None if nothing was judged."""
        return None if self.leaked is None or not self.examples else self.leaked / self.examples


RESULTS = tuple(k for k in Outcome.model_fields if k not in ("state", "seconds", "peak"))
"""What two runs of one trial share, unless it depends on the clock."""


class SweepRow(Record):
    """One trial.

    Attributes:
        digest: of its resolved plan, by which it is known.
        number: its place in the grid, from 0.
        values: what the sweep set, dotted key to value.
        attack: the plan's attacks, in words.
        defence: what its clients apply, in words; "none" if nothing.
        outcome: None while it is waiting or running.
    """

    digest: str
    number: int
    values: dict[str, Any] = Field(default_factory=dict)
    attack: str
    defence: str
    state: TrialState
    outcome: Outcome | None = None
