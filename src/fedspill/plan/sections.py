"""The plan of an audit as data: every section with its keys, their defaults and what is allowed.

Needs no PyTorch; what a client computes (`training`) is made of it, and so checked, by whoever parses a plan.
"""

import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from fedspill.core.errors import BadInput
from fedspill.core.words import Knows, Precision, ServerRole
from fedspill.plan.defaults import EVERY_METRIC
from fedspill.plan.values import Named
from fedspill.zoo.statistics import NAMED, words


class Section(BaseModel):
    """A table of a plan: no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
    _later: ClassVar[frozenset[str]] = frozenset()
    """Keys that came later: while they say nothing they are left out, so that an older run is known again."""

    @model_serializer(mode="wrap")
    def _without_later(self, serialise: Any) -> dict[str, Any]:  # a protocol that is not checked at run time
        silent = {k for k in self._later if getattr(self, k) == type(self).model_fields[k].default}
        return {k: v for k, v in serialise(self).items() if k not in silent}


def _as_entry(value: object) -> object:
    if isinstance(value, str):
        name, _, preset = value.partition(":")
        return {"name": name, "preset": preset} if preset else {"name": name}
    return value


STANDARD = "2"
"""The number of the schedule that "standard" is."""


class AttackEntry(BaseModel):
    """One component: "name", "name:preset", or a table with those of its fields that change."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str
    preset: str = "paper"

    @model_validator(mode="before")
    @classmethod
    def _todays_standard(cls, value: Any) -> Any:  # a protocol that is not checked at run time
        """Reads "standard" alone as the schedule of this version, by its number: results are comparable over years."""
        if isinstance(value, dict) and value.get("name") == "standard" and "preset" not in value:
            return {**value, "preset": STANDARD}
        return value

    @property
    def overrides(self) -> dict[str, Any]:
        """Fields that differ from the preset's."""
        return dict(self.model_extra or {})

    @property
    def label(self) -> str:
        """How reports call it."""
        changes = ",".join(f"{k}={v}" for k, v in self.overrides.items())
        return f"{self.name}:{self.preset}" + (f"({changes})" if changes else "")


def _seconds(value: object) -> object:
    """Takes "90", "90s", "5m", "1h", "none" (no limit) or a number, in seconds."""
    if not isinstance(value, str):
        return value
    if value.strip().lower() == "none":
        return math.inf
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h)?\s*", value)
    if match is None:
        raise ValueError(f"{value!r} is no duration; write for example '90s', '5m' or '1h', or 'none' for no limit")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"]


DEFAULT_BUDGET = 600.0
"""Seconds of an audit that nobody set a budget for."""


def parse_seconds(text: str) -> float:
    """A duration such as "90s", "5m" or "1h"; "none" is infinite.

    Raises:
        BadInput: it is none, or not above 0.
    """
    try:
        return TypeAdapter(Seconds).validate_python(text)
    except ValidationError:
        raise BadInput(f"{text!r} is no duration above 0; write for example '90s', '5m' or '1h'") from None


def _decibels(value: object) -> object:
    """Takes "20dB", "20 dB" or a number, in dB."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:dB)?\s*", value)
    if match is None:
        raise ValueError(f"{value!r} is no quality; write a PSNR such as '20dB'")
    return float(match[1])


def parse_decibels(text: str) -> float:
    """A quality such as "20dB".

    Raises:
        BadInput: it is none, or not above 0 and at most 100.
    """
    try:
        return TypeAdapter(Decibels).validate_python(text)
    except ValidationError:
        raise BadInput(f"{text!r} is no quality above 0 and at most 100 dB; write a PSNR such as '20dB'") from None


Entry = Annotated[AttackEntry, BeforeValidator(_as_entry)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Decibels = Annotated[float, BeforeValidator(_decibels), Field(gt=0, le=100)]


class AuditSection(Section):
    """What is run and how it is judged.

    Attributes:
        attacks: entries, or "standard": all whose needs the server's knowledge meets.
        metrics: None until the kind of data is known (`fedspill.auditing.resolving.defaults`).
        leak_threshold: metric to value; an example leaks when all are met. None likewise; {} judges nothing.
        budget: seconds for the whole audit; infinite for no limit, None for the usual one (`DEFAULT_BUDGET`).
        quality: PSNR in dB of images at which a search may stop, by its own estimate.
        at_once: updates that an attack takes together, if it can.
        lpips_weights: AlexNet weights for LPIPS.
        identification: also compute IIP.
    """

    attacks: tuple[Entry, ...] = (AttackEntry(name="standard"),)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    leak_threshold: dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None = None
    budget: Seconds | None = None
    quality: Decibels | None = None
    at_once: int = Field(default=1, ge=1)
    lpips_weights: str | None = None
    identification: tuple[Literal["pixel", "lpips", "feature"], ...] = ("pixel",)

    @field_validator("at_once")
    @classmethod
    def _one_with_a_quality(cls, at_once: int, info: Any) -> int:  # a protocol that is not checked at run time
        if info.data.get("quality") is not None and at_once > 1:
            raise ValueError("audit.quality is estimated for one update at a time; leave out one of the two")
        return at_once


def _channels(value: object) -> object:
    """Takes one number for all channels, a list, or "data"."""
    return (value,) if isinstance(value, int | float) and not isinstance(value, bool) else value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Channels = Annotated[
    Annotated[tuple[Finite, ...], Field(min_length=1)] | Literal["data"] | None, BeforeValidator(_channels)
]


class ModelSection(BaseModel):
    """The network; what is not listed here is handed to it as its own option (width, padding, ...).

    Attributes:
        name: None takes `convnet` for images, `transformer` for sentences, `mlp` for tables.
        mean: of images, what is taken off the numbers of `range`, per channel or one for all; "data" measures mean and
            std on public data.
        std: likewise, what the rest is divided by, above 0.
        range: of images, the numbers that black and white are before that, such as (0, 255); None is (0, 1).
        normalise: of images, in one word: "data", "imagenet", "cifar10", "cifar100", False for pixels in [0, 1] as they
            are. True and None take what the weights or their library say; where these are silent, it has to be said.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())
    name: str | None = None
    weights: str = "untrained"
    mode: Literal["eval", "train"] = "eval"
    seed: int = 0
    dtype: Literal["float32", "float64"] = "float32"
    num_classes: int | None = Field(default=None, ge=1)
    mean: Channels = None
    std: Channels = None
    range: tuple[Finite, Finite] | None = None
    normalise: bool | str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The network's own options."""
        return dict(self.model_extra or {})

    @field_validator("normalise")
    @classmethod
    def _known_word(cls, normalise: bool | str | None) -> bool | str | None:
        if isinstance(normalise, str) and normalise not in ("data", *NAMED):
            raise ValueError(f"must be true, false, or one of {words('data')}; or give mean, std and range")
        return normalise

    @model_validator(mode="after")
    def _said_once(self) -> "ModelSection":
        numbers = [k for k in ("mean", "std", "range") if getattr(self, k) is not None]
        if numbers and self.normalise is not None:
            raise ValueError(f"normalise and {', '.join(numbers)} are given; set one or the other")
        if "data" in (self.mean, self.std):
            if self.range is not None or (self.mean or "data") != (self.std or "data"):
                raise ValueError('mean = "data" measures mean and std of pixels in [0, 1]; leave std and range out')
        elif (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both, or neither")
        return self

    @model_serializer(mode="wrap")
    def _without_the_unsaid(self, handler: Any) -> dict[str, Any]:  # a protocol that is not checked at run time
        # An audit's folder is known by its plan: keys that a later version added change nothing while they are unset.
        later = ("mean", "std", "range", "normalise")
        return {k: v for k, v in handler(self).items() if v is not None or k not in later}


class PoolSection(Section):
    """Examples of one source.

    Attributes:
        size: of images: pixels a side.
        length: of sentences: tokens each.
        tokenizer: of sentences: "bytes", "bpe:N", or files.
        label: of a CSV file: the column to predict.
    """

    name: str = "photos"
    root: str | None = None
    split: str | None = None
    indices: str | None = None
    size: int | None = Field(default=None, ge=1)
    length: int | None = Field(default=None, ge=1)
    tokenizer: str | None = None
    label: str | None = None


class DataSection(PoolSection):
    """The private pool; it is cut into consecutive updates of `num_examples`."""


STEPS_ONLY = (
    *("epochs", "minibatch_size", "lr", "momentum", "weight_decay", "optimizer", "schedule", "proximal"),
    *("accumulate", "shuffle", "drop_last"),
)
"""Keys of a client that takes local steps."""


class ClientSection(Section):
    """What a client computes.

    Attributes:
        num_examples: n, over all clients of one update.
        clients: how many clients' updates are averaged before the server sees anything.
        distinct_labels: skip an example whose label its mini-batch already holds (Inverting Gradients, C.2).
        micro_batch: examples that a client holds in memory at a time; None is all. Changes no result but by rounding.
        loss: a name (`core.local_training.losses`), a table of a name and its fields, a list of such for their sum, or
            "package.module:function"; None is the network's own: cross-entropy, of sentences on next tokens.
        optimizer: a name, or a table of a name and its fields, as in `torch.optim`.
        schedule: of the learning rate over the local steps, likewise.
        clip_norm: the norm that gradients are clipped to before a step; of FedSGD before they are sent.
        precision: "bfloat16" and "float16" are autocast.
        loss_scale: by which the loss is multiplied and the gradient divided.
        augmentation: `flip`, a probability, and `crop`, pixels of padding.
        proximal: mu of FedProx.
        accumulate: mini-batches to a step.
        shuffle: every epoch takes the examples in an order of its own.
        drop_last: a smaller last mini-batch of an epoch is left out.
    """

    _later: ClassVar[frozenset[str]] = frozenset(
        {"loss", "optimizer", "schedule", "clip_norm", "precision", "loss_scale", "augmentation", "proximal"}
        | {"accumulate", "shuffle", "drop_last"}
    )

    protocol: Literal["fedsgd", "fedavg"] = "fedsgd"
    num_examples: int = Field(default=1, ge=1)
    epochs: int = Field(default=1, ge=1)
    minibatch_size: int | None = Field(default=None, ge=1)
    lr: float = Field(default=0.01, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0)
    trainable: tuple[str, ...] = Field(default=("*",), min_length=1)
    clients: int = Field(default=1, ge=1)
    distinct_labels: bool = False
    micro_batch: int | None = Field(default=None, ge=1)
    loss: Named | list[Named] | None = None
    optimizer: Named = "sgd"
    schedule: Named = "constant"
    clip_norm: float | None = Field(default=None, gt=0)
    precision: Precision = "float32"
    loss_scale: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    augmentation: dict[str, Any] | None = None
    proximal: float = Field(default=0.0, ge=0)
    accumulate: int = Field(default=1, ge=1)
    shuffle: bool = False
    drop_last: bool = False

    @model_validator(mode="after")
    def _check(self) -> "ClientSection":
        if self.num_examples % self.clients:
            raise ValueError(f"num_examples={self.num_examples} cannot be shared out equally to clients={self.clients}")
        given = [k for k in STEPS_ONLY if k in self.model_fields_set]
        if self.protocol == "fedsgd" and given:
            raise ValueError(f"{', '.join(given)} given with protocol='fedsgd', which sends one gradient; use 'fedavg'")
        if self.protocol == "fedavg" and self.micro_batch is not None:
            raise ValueError("micro_batch given with protocol='fedavg', whose minibatch_size bounds the memory")
        return self


class FederationSection(Section):
    """Many rounds in place of single updates; the pool's first examples are the clients', in their order.

    Attributes:
        rounds: how many; those before an observed one train the model that it starts from.
        sizes: examples of each client; None shares `client.num_examples` out equally to `client.clients`.
        participation: share of the clients that a round asks.
        server_lr: None takes 1 with FedAvg; FedSGD has no other learning rate, so it must be said.
        server_momentum: of the mean updates over rounds.
        observed: rounds, from 0, whose updates are attacked; () is the last.
        observes: "mean", what secure aggregation lets through, or "each" client's update by itself.
        observer: who attacks: "server", or "client", who took part and sees two global models.
        as_client: which client that is, from 0.
    """

    rounds: int = Field(default=1, ge=1)
    sizes: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] | None = None
    participation: float = Field(default=1.0, gt=0, le=1)
    server_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    server_momentum: float = Field(default=0.0, ge=0, lt=1)
    observed: tuple[Annotated[int, Field(ge=0)], ...] = ()
    observes: Literal["mean", "each"] = "mean"
    observer: Literal["server", "client"] = "server"
    as_client: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "FederationSection":
        if len(set(self.observed)) != len(self.observed):
            raise ValueError(f"observed={list(self.observed)} names one round twice")
        if self.observed and max(self.observed) >= self.rounds:
            raise ValueError(
                f"observed={list(self.observed)}: rounds={self.rounds} are those from 0 to {self.rounds - 1}"
            )
        if self.observer == "client" and self.observes == "each":
            raise ValueError("observes='each' is the server's; another client sees global models, so the mean")
        return self


class UtilitySection(Section):
    """A short training by the same protocol and defences, for what they cost in accuracy; no attack sees it.

    Attributes:
        rounds: of the federation.
        clients: that each round asks, drawn anew out of all that the examples are enough for; each holds as many
            examples as one does in the audit.
        held_out: examples by which accuracy is counted; as many more choose the server's learning rate.
        data: examples to train on; None takes the private pool itself.
        server_lr: None tries a few, and takes the best of them.
        server_momentum: of the mean updates over rounds.
        seed: of who is asked, what is drawn, and how examples are shared out.
    """

    rounds: int = Field(default=40, ge=1)
    clients: int = Field(default=4, ge=1)
    held_out: int = Field(default=200, ge=20)
    data: PoolSection | None = None
    server_lr: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    server_momentum: float = Field(default=0.9, ge=0, lt=1)
    seed: int = 0


class ServerSection(Section):
    """What the server knows, and what it is willing to do.

    Attributes:
        role: "standard" runs malicious servers only up to this role.
        tampering: on whose model the attacks are run; of a readout that it brings they get what that isolates, if it
            does, and it is not used otherwise.
        public: examples from the clients' distribution, checked to be disjoint from the private ones.
        knows_defence: attacks adapt to the clients' defences, of whose settings only the random draws stay hidden;
            false asks what attacks reach that know of none.
        repeats: rounds in which the server sends the same model and is answered on the same examples; it takes the mean
            of the answers, so that noise that is drawn anew each time falls by the root of their number.
    """

    _later: ClassVar[frozenset[str]] = frozenset({"knows_defence", "repeats"})

    knows: tuple[Knows, ...] = (Knows.LABELS, Knows.NUM_EXAMPLES, Knows.LOCAL_TRAINING)
    role: ServerRole = ServerRole.HONEST_BUT_CURIOUS
    tampering: Annotated[AttackEntry | None, BeforeValidator(_as_entry)] = None
    public: PoolSection | None = None
    knows_defence: bool = True
    repeats: int = Field(default=1, ge=1, le=10_000)

    @model_validator(mode="after")
    def _check(self) -> "ServerSection":
        if Knows.DEFENCE in self.knows and not self.knows_defence:
            raise ValueError("knows names 'defence', and knows_defence is false; say one of them")
        return self

    @property
    def granted(self) -> tuple[Knows, ...]:
        """All that the server knows: what `knows` lists, and the clients' defences."""
        return tuple({*self.knows, Knows.DEFENCE} if self.knows_defence else self.knows)


class PolicySection(Section):
    """When an audit fails.

    Attributes:
        max_leakage_rate: share of examples that may leak, or be recognisable.
        max_psnr: in dB; no example may be rebuilt better.
        require_bound: without a bound that lies under the policy there is no pass.
        prior: the probability, at most, with which somebody who saw no update rebuilds an example so closely that it
            counts as leaked; an assumption that nothing here checks. None: no bound is held against the policy.
        max_success: the largest success probability of any attacker that the policy accepts.
        fails: the verdicts that end with exit code 1.
        strict: warnings, and whatever else is no pass without reserve, end with exit code 1 as well.
    """

    _later: ClassVar[frozenset[str]] = frozenset({"fails", "strict", "prior", "max_success"})

    max_leakage_rate: float = Field(default=0.0, ge=0, le=1)
    max_psnr: Annotated[float, Field(allow_inf_nan=False)] | None = None
    require_bound: bool = False
    prior: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_success: float = Field(default=0.05, gt=0, lt=1)
    fails: tuple[Literal["leaks", "recognisable", "not shown", "not tested"], ...] = ("leaks", "recognisable")
    strict: bool = False


class AuditPlan(Section):
    """All that an audit needs to know; every key has a default.

    Attributes:
        defences: what every client applies, in this order.
        utility: measure accuracy, too; None does not.

    Example:
        >>> from fedspill.plan import parse_plan
        >>> plan = parse_plan({"model": {"name": "lenet"}, "client": {"num_examples": 1}})
        >>> plan.model.name
        'lenet'
    """

    audit: AuditSection = AuditSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    client: ClientSection = ClientSection()
    server: ServerSection = ServerSection()
    defences: tuple[Entry, ...] = ()
    policy: PolicySection = PolicySection()
    federation: FederationSection | None = None
    utility: UtilitySection | None = None
    _later: ClassVar[frozenset[str]] = frozenset({"federation", "utility"})

    @model_validator(mode="after")
    def _check(self) -> "AuditPlan":
        if self.federation is not None:
            self._check_federation(self.federation)
        if len(set(self.audit.seeds)) != len(self.audit.seeds):
            raise ValueError(f"audit.seeds={list(self.audit.seeds)} names one seed twice")
        asked = self.audit.metrics or EVERY_METRIC
        unscored = [m for m in self.audit.leak_threshold or () if m not in asked]
        if unscored:
            raise ValueError(f"leak_threshold names {unscored}, which metrics={list(asked)} lacks")
        return self

    def _check_federation(self, federation: FederationSection) -> None:
        client = self.client
        if federation.sizes is not None and {"num_examples", "clients"} & client.model_fields_set:
            raise ValueError("federation.sizes says how many clients with how many examples; leave out client's own")
        if client.protocol == "fedsgd" and federation.server_lr is None:
            raise ValueError("federation.server_lr is missing: with protocol='fedsgd' it is the learning rate")
        for key in ("micro_batch", "distinct_labels"):
            if getattr(client, key):
                raise ValueError(f"client.{key} is of single updates; leave it out with a federation")
        if self.audit.at_once > 1:
            raise ValueError("audit.at_once is of updates of one model; in a federation every round has its own")
