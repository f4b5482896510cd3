"""The schema of report.json: what an audit found, and the facts that every view of it is drawn from.

`redacted` makes a report that may be shared: the numbers stay, everything that shows a private example goes.
"""

from enum import Enum
from typing import Any, Literal

from pydantic import Field, field_validator

from fedspill.report.bounds import Bounds
from fedspill.report.leakage import thresholds_of, with_leak_flags
from fedspill.report.trial import Rate, Record, Trial

SCHEMA_VERSION = 1


class VerdictName(Enum):
    """What an audit concludes (docs/design.md, the plan and the verdict)."""

    LEAKS = "leaks"
    RECOGNISABLE = "recognisable"
    BOUNDED = "bounded"
    NOT_SHOWN = "not shown"
    NOT_TESTED = "not tested"


class WorstExample(Record):
    """One private example and the closest that any attack came to it.

    Attributes:
        recognisable: it leaked, or can be told from others by what some attack rebuilt (docs/verdicts.md).
    """

    example: int
    update: int
    trial: str
    metric: str
    unit: str
    value: float
    leaked: bool
    recognisable: bool = False


class RoleVerdict(Record):
    """What came out against one kind of server.

    Attributes:
        role: what the server must be willing to do.
        attack: the strongest one, "name:preset"; None if none was run.
        trial: of its worst example.
        planted: what the server changed in the model that it sent, and how many parameters were added; None if
            nothing.
        assumed: what the server is taken to know, in the words of the grants.
        worst: the closest that any attack of this role came to an example; None if none was scored.
        share: of the private examples behind the updates that leaked.
        seconds: that all attacks of this role took.
    """

    role: str
    name: VerdictName
    attack: str | None = None
    trial: str | None = None
    planted: str | None = None
    assumed: list[str] = Field(default_factory=list)
    worst: WorstExample | None = None
    share: Rate | None = None
    seconds: float = 0.0


class Verdict(Record):
    """The conclusion in one word, in one sentence, and as an exit code.

    Attributes:
        by_role: the same for every kind of server that was tried, the least demanding first.
    """

    name: VerdictName
    sentence: str
    exit_code: Literal[0, 1, 3]
    by_role: list[RoleVerdict] = Field(default_factory=list[RoleVerdict])


class Caveat(Record):
    """A condition that limits what the numbers mean."""

    topic: str
    text: str
    trials: list[str] = Field(default_factory=list)


class Grant(Record):
    """One thing that the server could know, and whether this plan grants it."""

    name: str
    granted: bool
    explanation: str


class Cost(Record):
    """(epsilon, delta)-differential privacy of one update.

    Attributes:
        unit: between which inputs the updates are hard to tell apart.
        noise: standard deviation of the noise on every value.
    """

    epsilon: float
    delta: float
    unit: str
    noise: float


class AppliedDefence(Record):
    """What every client applied to what it sent.

    Attributes:
        fields: its hyperparameters as they were run.
        cost: what is proven of one update; None if nothing is.
    """

    name: str
    preset: str
    title: str
    origin: str | None = None
    fields: dict[str, Any]
    cost: Cost | None = None


class Environment(Record):
    """The conditions of the run.

    Attributes:
        parameters: of the model, before any server added some.
    """

    fedspill: str
    python: str
    torch: str
    device: str
    device_name: str
    threads: int
    started: str
    seconds: float
    command: str
    plan_sha256: str
    weights_sha256: str
    data: str
    model: str
    parameters: int | None = None


class Feeding(Record):
    """What the network as the clients get it makes of the private examples, as they are fed to it, without masks.

    Attributes:
        n: private examples that were measured, at most 1,024; all others of this record are of these.
        loss: the mean of the model's own; None if it is not finite, or labels are wanting.
        accuracy: share of labels (of next tokens: of positions) that are the likeliest class; None if they are none.
        classes: that the network tells apart.
        mean: of images, what pixels in [0, 1] are normalised by, per channel or one for all.
        std: likewise.
        origin: who says so; None if the model brings it.
        batch_statistics: BatchNorm took those of up to 64 of the examples at a time, as it does in train mode, because
            it has no running ones, or never kept any; else it ran in eval mode.
        warning: why the network is probably fed wrong, if so.
    """

    n: int
    loss: float | None = None
    accuracy: float | None = None
    classes: int | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    origin: str | None = None
    batch_statistics: bool = False
    warning: str | None = None


class RoundRecord(Record):
    """One round of a federation: how good the global model was before it, and what leaked in it.

    Attributes:
        number: from 0.
        world: the attack whose server alters the model before it sends it; None is the federation of all others.
        clients: that took part, from 0.
        examples: that these hold.
        n: private examples of all clients that the global model was measured on, at most 1,024.
        accuracy: share of their labels (of next tokens: of positions) that are its likeliest class; None if they are no
            classes, or the model holds numbers that are not finite.
        loss: the mean of the model's own; None likewise.
        batch_statistics: see `Feeding`.
        observer: who attacked what was sent in this round: "server", or "client K"; None if nobody did.
        leakage: share of the private examples behind it that any trial leaked; None if none was judged.
        worst: the closest that any trial came to one of them.
        untested: why every trial of an observed round was skipped, if so.
    """

    number: int
    world: str | None = None
    clients: list[int]
    examples: int
    n: int
    accuracy: float | None = None
    loss: float | None = None
    batch_statistics: bool = False
    observer: str | None = None
    leakage: Rate | None = None
    worst: WorstExample | None = None
    untested: str | None = None


class RankedLayer(Record):
    """One input of one or more layers, and what one example's gradient says of it if all that lies above is known.

    Attributes:
        layers: that take it.
        values: how many it has.
        gradient: rank of the gradient's constraints on it.
        rank: of these and of what the layers put out.
        exact: the rank was computed; False: it is at most this.
        way: what determines it: "head", "constraints", "patches" or "known"; None: nothing does.
        reached: the recursion comes to know it.
    """

    layers: list[str]
    values: int
    gradient: int
    rank: int
    exact: bool
    way: Literal["head", "constraints", "patches", "known"] | None
    reached: bool


class Ranks(Record):
    """Which layers of the network determine their input by one example's gradient, in eval mode; no data are needed.

    Attributes:
        layers: from the first to the last.
        untold: why it was not computed, if so.
    """

    layers: list[RankedLayer] = Field(default_factory=list[RankedLayer])
    untold: str | None = None


class Utility(Record):
    """Accuracy after a short training by the same protocol and defences.

    Attributes:
        accuracy: share of held-out labels (of next tokens: of positions) that are the likeliest class, after it.
        before: the same before it.
        guess: the share of the most frequent label.
        rounds: of the training.
        clients: that a round asked.
        examples: that all clients held.
        held_out: examples that accuracy was counted on.
        server_lr: the server's learning rate, the best of those that were tried on as many other examples.
        source: of the examples.
    """

    accuracy: float
    before: float
    guess: float
    rounds: int
    clients: int
    examples: int
    held_out: int
    server_lr: float
    source: str
    seconds: float


class Pictures(Record):
    """Files beside the report, relative to its folder; all None in a redacted report.

    Attributes:
        bins: by trial, what was read bin by bin.
    """

    strip: str | None = None
    trials: dict[str, str] = Field(default_factory=dict)
    bins: dict[str, str] = Field(default_factory=dict)


class AuditReport(Record):
    """All that an audit found. `report.json` is this record; every other view is a function of it.

    Attributes:
        plan: the plan as it was run, with every default filled in.
        defences: what every client applied, in this order.
        worst: the worst case per private example over all attacks (as auto-attack reports robustness),
            the closest first.
        feeding: what the network makes of the private examples; None in reports of before it was measured.
        leakage_rate: over the private examples, counting one as leaked if any trial leaked it.
        not_tested: what a reader might believe to be covered and is not.
        rounds: of a federation every round up to the last observed one, once for each world; models are measured
            under the first seed.
        ranks: how far closed forms come in the network as it is agreed on; None without convolutions on pictures, and
            in reports of before it was analysed.
        utility: what the protocol and the defences cost in accuracy; None if the plan did not ask.
        bounds: what no attack beats, apart from what attacks reached; None where nobody asked (no defence, no prior,
            no bound required), and in reports of before they were held against the policy.

    Example:
        >>> import fedspill
        >>> plan = {"audit": {"attacks": ["linear_layer"]}, "model": {"name": "mlp"},
        ...         "data": {"name": "photos", "indices": "0", "size": 8}}
        >>> report = fedspill.audit(plan).report
        >>> report.leakage_rate.hits, report.leakage_rate.n
        (1, 1)
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    plan: dict[str, Any]
    environment: Environment
    feeding: Feeding | None = None
    grants: list[Grant]
    defences: list[AppliedDefence] = Field(default_factory=list[AppliedDefence])
    trials: list[Trial]
    worst: list[WorstExample]
    leakage_rate: Rate | None
    caveats: list[Caveat]
    not_tested: list[str]
    verdict: Verdict
    rounds: list[RoundRecord] = Field(default_factory=list[RoundRecord])
    ranks: Ranks | None = None
    utility: Utility | None = None
    bounds: Bounds | None = None
    pictures: Pictures = Pictures()
    redacted: bool = False

    @field_validator("trials")
    @classmethod
    def _with_leak_flags(cls, trials: list[Trial], info: Any) -> list[Trial]:
        # `info` is a protocol that is not checked at run time
        thresholds = thresholds_of(info.data.get("plan", {}))
        return [with_leak_flags(trial, thresholds) for trial in trials]


def json_schema() -> dict[str, Any]:
    """The JSON schema of report.json."""
    return AuditReport.model_json_schema(mode="serialization")


def redact(report: AuditReport) -> AuditReport:
    """The same report without pictures and marked as redacted, so that no view draws one."""
    return report.model_copy(update={"pictures": Pictures(), "redacted": True})
