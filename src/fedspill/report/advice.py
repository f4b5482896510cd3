"""What is on record of advice: what leaks, what was tried against it, and which changes were measured to stop it."""

from typing import Literal

from pydantic import Field

from fedspill.report.trial import Record

Found = Literal["stops", "leaks", "untested", "refused", "unmeasured"]
"""untested: nothing leaked, but not every attack did all that it did before; unmeasured: the budget was used up."""
Kind = Literal["protocol", "noise", "heuristic"]
"""protocol: what clients send, and how many at a time; noise: a bound follows; heuristic: none does."""


class Leak(Record):
    """What one attack showed of the plan as it is.

    Attributes:
        attack: "name:preset".
        role: what the server must be willing to do.
        leaked: private examples that it leaked.
        recognisable: that it leaked, or made recognisable; None if that was not judged.
        examples: of how many.
    """

    attack: str
    role: str
    leaked: int
    recognisable: int | None
    examples: int


class Counted(Record):
    """What all attacks of one measured plan leaked.

    Attributes:
        leaked: private examples that any attack leaked under any seed; None if that was not judged.
        verdict: its word.
        seeds: under which it was attacked.
        converged: an audit of it concludes something; else no attack trusts what it read, which is what an attack says
            that noise defeats, and what one says that needed more time.
    """

    leaked: int | None
    examples: int | None
    verdict: str
    seeds: list[int]
    converged: bool = True


class Bound(Record):
    """What no attack beats under a change.

    Attributes:
        epsilon: of all counted releases.
        sentence: epsilon with its unit, and the accountant.
        prior: probability of being right without the update.
        success: with it, at most.
    """

    epsilon: float
    delta: float
    sentence: str
    prior: float
    success: float


class Price(Record):
    """Accuracy after one short training each; None where it could not be measured.

    Attributes:
        reason: why, if so.
        guess: the share of the most frequent label.
        held_out: examples that it was counted on.
        rounds: of the training.
    """

    before: float | None = None
    after: float | None = None
    guess: float | None = None
    held_out: int | None = None
    rounds: int | None = None
    reason: str | None = None

    @property
    def cost(self) -> float | None:
        """Accuracy that is lost."""
        return None if self.before is None or self.after is None else self.before - self.after


class Change(Record):
    """A change of the plan that was measured to stop every leak, under the searching seeds and under fresh ones.

    Attributes:
        what: the ladder that it is of, in words.
        settings: "KEY=VALUE" each, as `fedspill audit PLAN.toml --set` takes them.
        before: the plan as it is, under the fresh seeds.
        after: the same with the change.
        elsewhere: the change on examples that the plan does not name; None where there were none.
        bound: None where there is none, for `no_bound`.
    """

    what: str
    kind: Kind
    settings: list[str]
    before: Counted
    after: Counted
    elsewhere: Counted | None = None
    price: Price = Price()
    bound: Bound | None = None
    no_bound: str | None = None


class Tried(Record):
    """One strength of one ladder.

    Attributes:
        why: in words, if there is more to say.
        counted: under the searching seeds; under fresh ones if it was confirmed, or refuted, by these.
        elsewhere: under fresh ones on other examples, where it was confirmed on these, too.
    """

    settings: list[str]
    found: Found
    why: str = ""
    counted: Counted | None = None
    elsewhere: Counted | None = None


class LadderWalk(Record):
    """What came of one ladder, from its weakest strength on."""

    what: str
    kind: Kind
    tried: list[Tried]


class Advice(Record):
    """All that `fedspill advise` found.

    Attributes:
        sentence: what leaks to whom, the verdict's.
        verdict: of the plan as it is, one word.
        leaking: whether that is to be stopped by the plan's policy.
        complete: whether it leaks, or every attack came to its end.
        changes: those that stop every leak, cheapest in accuracy first.
        walks: all that was tried.
        seeds: under which changes were searched.
        fresh_seeds: under which they were confirmed; disjoint from `seeds`.
        other_examples: they were confirmed on examples, too, that the plan does not name.
        budget: seconds.
        seconds: that all measurements took, those of earlier calls among them.
        notes: what a reader might believe to be covered and is not.
    """

    sentence: str
    verdict: str
    leaking: bool
    complete: bool
    leaks: list[Leak]
    changes: list[Change]
    walks: list[LadderWalk]
    seeds: list[int]
    fresh_seeds: list[int]
    other_examples: bool = False
    budget: float
    seconds: float
    fedspill: str
    torch: str
    notes: list[str] = Field(default_factory=list[str])

    @property
    def exit_code(self) -> int:
        """0: a change for every leak, or nothing leaks; 3: none was found, or the plan as it is was not tested."""
        return 3 if (self.leaking and not self.changes) or not self.complete else 0
