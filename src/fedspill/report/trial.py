"""What is on record of one trial: scores, labels, what was read, beside what a guess reaches."""

from typing import Literal

from pydantic import Field

from fedspill.core.types import Mark
from fedspill.report.certified import Certified
from fedspill.report.record import Record as Record


class Score(Record):
    """One metric over the private examples of one trial.

    Attributes:
        values: one per private example, in their order; None where no reconstruction was matched to it.
        mean, median, worst, quantiles: over the examples that have a value; `worst` is the closest
            reconstruction (the worst for the client); quantiles at 10, 25, 75, 90 %.
        capped: how many values stand at the metric's cap (PSNR: 100 dB) and pull the mean.
        not_computed: why there are no values, if there are none.
    """

    metric: str
    unit: str
    higher_is_closer: bool
    values: list[float | None]
    mean: float | None = None
    median: float | None = None
    worst: float | None = None
    quantiles: dict[str, float] = Field(default_factory=dict)
    capped: int = 0
    not_computed: str | None = None


class Rate(Record):
    """A share of examples with its Wilson score interval (95 %).

    Attributes:
        criterion: what an example must meet to count, e.g. "psnr >= 20 dB".
    """

    criterion: str
    hits: int
    n: int
    rate: float
    low: float
    high: float


BaselineName = Literal[
    "mean image", "best public image", "TV only", "commonest token", "commonest row", "best public example"
]


class Baseline(Record):
    """The same scores for a guess made without the update.

    Attributes:
        leakage_rate: by the plan's thresholds; above 0 the thresholds are met without any leak.
    """

    name: BaselineName
    explanation: str
    scores: list[Score]
    leakage_rate: Rate | None = None


class Labels(Record):
    """Where the labels came from and how many were right (multiset overlap in [0, 1])."""

    source: Literal["granted", "inferred", "none"]
    method: str | None = None
    overlap: float | None = None


class Identification(Record):
    """Image identification precision (IIP; Yin et al. 2021): is the target the nearest of a reference set?"""

    distance: Literal["pixel", "lpips", "feature"]
    reference: str
    rate: Rate | None = None
    not_computed: str | None = None


class Reading(Record):
    """One candidate that an attack read somewhere, such as in a bin, whether or not it was scored.

    Attributes:
        origin: where, in the attack's words.
        mark: what the attack believes of it.
        confidence: the attack's own.
        scored: its index among the reconstructions stored; None if the attack trusted others more.
        unscored: its index among the other candidates stored, if it was stored there.
        holds: positions of the private examples that this place holds, by the readout's own measurement.
        exact: position of the private example of which it is an exact copy (PSNR of 60 dB, every token, every
            column), or whose representation was read.
    """

    origin: str
    mark: Mark | None = None
    confidence: float | None = None
    scored: int | None = None
    unscored: int | None = None
    holds: list[int] = Field(default_factory=list)
    exact: int | None = None


class Predicted(Record):
    """How many of n private examples a readout had to recover by its own measurement, and how many it did.

    Attributes:
        exact: recovered exactly by any candidate.
        both: predicted, and recovered exactly.
        alone: have a place of their own, whatever is read from the others: of representations the IR leakage rate of
            Maui (Dabholkar et al. 2025), times n.
        certified: recovered exactly by a candidate that the attack itself holds for one example.
        what: what is recovered; representations are inverted to inputs, which need not be exact.
    """

    what: Literal["examples", "representations"] = "examples"
    alone: int = 0
    certified: int = 0
    n: int
    predicted: int
    exact: int
    both: int


class SearchForecast(Record):
    """What a search expected to need before it started, from evaluations that it timed.

    Attributes:
        iterations: of all runs together, at most; of trials that were searched at once each one's share.
        seconds: of one of them.
        memory: bytes at most at a time, beyond what was held.
    """

    iterations: int
    seconds: float
    memory: int | None = None


class Trial(Record):
    """One update, one attack, one seed.

    Attributes:
        name: unique within the report; also the stem of the trial's pictures.
        examples: indices of the private examples within the data split.
        round: of the federation, from 0; None where an update is answered to the model as it is.
        seconds: from the server's model to the reconstruction; of trials that ran at once each one's share.
        gradient_norm: of the update as the server got it; close to 0 there is nothing to invert.
        self_check: the attack's matching value at the true input (0 up to rounding when attacker and client
            compute the same), before any defence.
        self_check_length: the length of what the attack computes there, in units of the update's; 1 likewise.
        different_models: every client behind the update received a model of its own.
        iterations: of the best run; 0 for closed forms.
        objective: the curve of the best run, thinned to at most 200 points as [iteration, value].
        searched: share of its iterations, by the attack's own count, that were made when the budget ended it; None if
            it was not ended.
        leaked: whether each private example meets the plan's leak thresholds, and where a guess without the update
            does so too, is clearly closer than that guess; None where it could not be judged.
        recognisable: whether each private example leaked, or can be told from others by what was rebuilt
            (docs/verdicts.md); None where that was not judged.
        confidence: the attack's own, one per reconstruction, in the order of the tensors stored.
        matched: for each private example the index of its reconstruction, None if it got none.
        readings: every candidate that the attack returned, in its order, if it says where it read them.
        predicted: of a readout whose success can be predicted.
        certified: what the attack claims to have read verbatim, by its own word; None if it claims nothing, and in
            reports of before this was counted.
        foreseen: of a search.
        planned: seconds for which a search was planned with fewer iterations than its preset asks for, if it was.
        skipped: why the trial was not run, if it was not.
        origin: the package that the attack comes from, if it is not fedspill's own.
    """

    name: str
    attack: str
    preset: str
    title: str
    role: str
    seed: int
    update: int
    examples: list[int]
    round: int | None = None
    seconds: float = 0.0
    iterations: int = 0
    objective: list[tuple[int, float]] = Field(default_factory=list)
    converged: bool = False
    ended_by_budget: bool = False
    searched: float | None = None
    gradient_norm: float | None = None
    self_check: float | None = None
    self_check_length: float | None = None
    added_parameters: int = 0
    different_models: bool = False
    labels: Labels = Labels(source="none")
    scores: list[Score] = Field(default_factory=list)
    leakage_rate: Rate | None = None
    leaked: list[bool] | None = None
    recognisable: list[bool] | None = None
    identification: list[Identification] = Field(default_factory=list)
    baselines: list[Baseline] = Field(default_factory=list)
    confidence: list[float] = Field(default_factory=list)
    matched: list[int | None] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    readings: list[Reading] = Field(default_factory=list)
    predicted: Predicted | None = None
    certified: Certified | None = None
    foreseen: SearchForecast | None = None
    planned: float | None = None
    skipped: str | None = None
    origin: str | None = None
