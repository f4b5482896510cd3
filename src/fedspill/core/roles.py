"""The verbs of an audit: who does what, each as one method."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec, Kind
from fedspill.core.knowledge import KnownDefence, Knows, ServerKnowledge
from fedspill.core.local_training.update import LocalTraining
from fedspill.core.model import Model
from fedspill.core.types import Batch, Params, Reconstruction, ServerRole, Update
from fedspill.core.watching.watch import UNWATCHED as UNWATCHED
from fedspill.core.watching.watch import Forecast as Forecast
from fedspill.core.watching.watch import State as State
from fedspill.core.watching.watch import Unwatched as Unwatched
from fedspill.core.watching.watch import Watch as Watch


@runtime_checkable
class Attack(Protocol):
    """Reconstructs clients' inputs from what they sent. Never sees the truth.

    Raises:
        NotApplicable: the attack does not fit the model, the update or the knowledge.
    """

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """What the attack believes the clients held."""
        ...


@dataclass(frozen=True)
class Job:
    """One update to attack: what `Attack.reconstruct` takes.

    Attributes:
        rng: of this job alone, so that its result does not depend on the others.
    """

    update: Update
    knowledge: ServerKnowledge
    rng: torch.Generator


@runtime_checkable
class ReconstructsMany(Attack, Protocol):
    """An attack that takes independent updates together in less time, to the same results up to rounding.

    Raises:
        NotApplicable: the attack does not fit one of the jobs.
    """

    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        """What `reconstruct` returns for every job, in their order."""
        ...


@runtime_checkable
class Searches(Protocol):
    """An attack whose length is known before it begins, so that a schedule can tell whether its time is of any use."""

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a readout must find by its own measurement, were it handed the examples: the oracle of a test.

    Attributes:
        places: for each example the names of its bins, in the words of `Reconstruction.origins`.
        recoverable: (n,) the examples that the readout must recover exactly.
        representations: of the examples, if it is these that the readout must recover.
    """

    places: tuple[tuple[str, ...], ...]
    recoverable: Bool[Tensor, " n"]
    representations: Float[Tensor, "n d"] | None = None


@runtime_checkable
class Predicts(Protocol):
    """A readout whose success can be predicted from the examples; only the evaluation asks, never the attack."""

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """What this readout must find of encoded examples z (n, ...) behind one update of the model as sent."""
        ...


ForClient = Callable[[int], Model]
"""The number of a client to the model that it is sent, where clients are sent different ones."""


@dataclass(frozen=True)
class Tampered:
    """A model made to leak, and the attack that reads its answers; its typed fields are the server's secret.

    Attributes:
        model: what is sent; where clients receive different models, the one that the server steps on from.
        readout: None means that the plan's own attacks are run on the tampered model.
        goes_on: what the server sends in the next round of a federation, once it holds this round's mean update and
            what it knows of it; None asks the same tampering again.
        for_client: what the client of this number receives; None: all receive `model`. The models differ in the
            values of parameters and buffers only.
    """

    model: Model
    readout: Attack | None = None
    goes_on: "Callable[[Update, ServerKnowledge], Tampering] | None" = None
    for_client: ForClient | None = None

    def sent_to(self, client: int) -> Model:
        """What one client receives."""
        return self.model if self.for_client is None else self.for_client(client)


@dataclass(frozen=True)
class Isolated:
    """The update of a few examples of a batch, as an attack takes it.

    Attributes:
        knowledge: of these examples.
        labelled: the labels in there are theirs; else they only give the same gradient.
        note: for a reader of the result.
    """

    update: Update
    knowledge: ServerKnowledge
    labelled: bool
    note: str


@runtime_checkable
class Isolates(Protocol):
    """A readout that makes of the answer to its model an update of fewer examples, which any attack can take.

    Where a plan names its tampering as `server.tampering`, the plan's attacks get that update.
    """

    def isolated(self, update: Update, knowledge: ServerKnowledge) -> Isolated:
        """The update, and what is known of it.

        Raises:
            NobodyIsolated: the update holds nobody who is isolated.
            NotApplicable: it cannot be told.
        """
        ...


def nothing(knowledge: ServerKnowledge, note: str) -> Reconstruction:
    """A reconstruction of nobody."""
    spec, like = knowledge.model.input, knowledge.model.like
    inputs = spec.decode(like.new_zeros(0, *spec.encoded_shape))
    return Reconstruction(inputs=inputs, confidence=like.new_zeros(0), notes=(note,))


@runtime_checkable
class Tampering(Protocol):
    """Alters the model before it is sent."""

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model to send in this round; `watch` hears of what is trained before."""
        ...


@runtime_checkable
class ForClients(Protocol):
    """A tampering that must know whom the server asks, as one that sends every client another model."""

    def for_clients(self, clients: Sequence[int]) -> Tampering:
        """The tampering for a round in which the clients of these numbers are asked.

        Raises:
            BadInput: it was told of other clients before.
        """
        ...


@dataclass(frozen=True)
class ClientContext:
    """What a client's own defence may look at."""

    model: Model
    batch: Batch
    training: LocalTraining


def _same_model(model: Model) -> Model:
    return model


def _same_batch(batch: Batch, rng: torch.Generator) -> Batch:
    return batch


def _same_update(update: Update, context: ClientContext, rng: torch.Generator) -> Update | None:
    return update


@dataclass(frozen=True)
class Stages:
    """A record of pure functions; a stage that is left out does nothing.

    Attributes:
        prepare: changes the architecture; agreed on by all, so before the server sends the model.
        transform: changes the data before training.
        per_example: changes the gradients of single examples (n, ...) before they are averaged.
        protect: changes the update before it is sent; None withholds it.
        blend: changes the data before training by what the network takes, such as its number of classes; it comes
            after `transform`.
    """

    prepare: Callable[[Model], Model] = _same_model
    transform: Callable[[Batch, torch.Generator], Batch] = _same_batch
    per_example: Callable[[Params, torch.Generator], Params] | None = None
    protect: Callable[[Update, ClientContext, torch.Generator], Update | None] = _same_update
    blend: Callable[[Batch, Model, torch.Generator], Batch] | None = None


@dataclass(frozen=True)
class PrivacyCost:
    """(epsilon, delta)-differential privacy of one release.

    Attributes:
        unit: between which inputs the releases are hard to tell apart.
        noise: standard deviation of the noise on every value.
    """

    epsilon: float
    delta: float
    unit: str
    noise: float


@runtime_checkable
class Defence(Protocol):
    """A defence as a plan configures it: its fields are its hyperparameters."""

    def stages(self) -> Stages:
        """What it does at each stage."""
        ...

    def cost(self) -> PrivacyCost | None:
        """What is proven of one update that it protected; None if nothing is."""
        ...


@runtime_checkable
class Known(Protocol):
    """A defence that says what a server knows of it that knows the clients' settings (Kerckhoffs)."""

    def known(self, model: Model) -> KnownDefence:
        """What it does to an update of this model, without what it draws at random."""
        ...


def known_defence(defences: Sequence[Defence], model: Model) -> KnownDefence | None:
    """What is known of defences that act in this order; None if none of them says anything."""
    said = [d.known(model) for d in defences if isinstance(d, Known)]
    return reduce(lambda before, this: this.after(before), said) if said else None


@dataclass(frozen=True)
class Misfit:
    """What a file holds that does not load into the agreed architecture.

    Attributes:
        missing: the architecture's names that the file lacks.
        foreign: tensors for which the architecture has no place, by their names in the file.
        reshaped: tensors under one of the architecture's names, of another shape.
        unreadable: tensors whose numbers cannot be taken, with the reason.
    """

    missing: tuple[str, ...] = ()
    foreign: Params = field(default_factory=dict[str, Tensor])
    reshaped: Params = field(default_factory=dict[str, Tensor])
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def tensors(self) -> Params:
        """The tensors without a place, which are looked at all the same."""
        return {**self.foreign, **self.reshaped}

    def __bool__(self) -> bool:
        return bool(self.missing or self.foreign or self.reshaped or self.unreadable)


FITS = Misfit()
"""Every tensor found its place."""


@dataclass(frozen=True)
class Exposed:
    """What one attack made of a client's update, judged by the client itself.

    Attributes:
        attack: its entry, such as "linear_layer:strong".
        read: (n,) which examples it rebuilt.
        closest: of the examples by the first metric of the kind of data, the value of the closest; None if there is no
            candidate.
        criterion: what counts as rebuilt, in words.
        seconds: that it took.
        failed: why it has no result, in words; "" if it has one.
    """

    attack: str
    read: Bool[Tensor, " n"]
    closest: float | None
    criterion: str
    seconds: float
    failed: str = ""


Exposure = Callable[[Model, Batch], Sequence[Exposed]]
"""What the update of a batch gives away, one entry per attack that fits."""
UpdateExposure = Callable[[Update, ClientContext, tuple[str, ...]], Sequence[Exposed]]
"""What an update gives away as it is about to be sent, to attacks of these names, one entry for each that fits."""


@runtime_checkable
class NeedsExposure(Protocol):
    """A defence that goes by what the client itself can read of its update; it is handed the means to measure that."""

    def measuring(self, exposure: UpdateExposure) -> Defence:
        """The defence that goes by this measurement."""
        ...


def measured(defence: Defence, exposure: UpdateExposure | None) -> Defence:
    """The defence, with the means to measure what an update gives away where it asks for them and there are any."""
    return defence.measuring(exposure) if exposure is not None and isinstance(defence, NeedsExposure) else defence


@dataclass(frozen=True)
class Incoming:
    """What a client has at hand when a model arrives.

    Attributes:
        model: as it was received; of a file that does not fit, what did, so that parameters may be missing.
        previous: the model of the round before.
        reference: the architecture that was agreed on; its weights are not looked at.
        own_data: the client's own examples.
        misfit: what of the file did not fit the architecture of `model`.
        checksum: the digest of the weights that other clients received, as `fedspill vet` prints it.
        exposure: attacks the update that the client's examples give, blind, and opens the truth afterwards; slow.
    """

    model: Model
    previous: Model | None = None
    reference: Model | None = None
    own_data: Batch | None = None
    misfit: Misfit = FITS
    checksum: str | None = None
    exposure: Exposure | None = None

    @property
    def tensors(self) -> Params:
        """All numbers that came: parameters, buffers, and what has no place in the network."""
        return {**self.model.params, **self.model.buffers, **self.misfit.tensors}


@dataclass(frozen=True)
class Finding:
    """One reason not to train on an incoming model; severity runs from 0 (a note) to 1 (refuse).

    Attributes:
        check: the name of the check in the catalogue.
        where: a parameter, a buffer or a module of the network, or several, as far as they have one name.
        evidence: the numbers that it rests on.
        explanation: what was seen, in plain words.
        rule: which of the check's reasons it is, where there are several.
        reads: what could be read because of it, and from whom.
        advice: what to do.
        also: further places that the finding is of.

    Example:
        >>> import fedspill
        >>> fedspill.Finding("weight_entropy", "conv1.weight", 0.9, {"entropy": 0.1}, "Kernels repeat.").severity
        0.9
    """

    check: str
    where: str
    severity: float
    evidence: Mapping[str, float]
    explanation: str
    rule: str = ""
    reads: str = ""
    advice: str = ""
    also: tuple[str, ...] = ()

    @property
    def rule_id(self) -> str:
        """The reason by one name, such as "kernels.one_hot"; it stays the same from version to version."""
        return f"{self.check}.{self.rule}" if self.rule else self.check

    @property
    def text(self) -> str:
        """All that is said of it, as sentences."""
        return " ".join(part for part in (self.explanation, self.reads, self.advice) if part)


@runtime_checkable
class Check(Protocol):
    """Inspects an incoming model on the client. No finding means nothing seen, not safe."""

    def inspect(self, incoming: Incoming) -> list[Finding]:
        """The reasons not to train on the model, one per layer or place; [] if none was seen."""
        ...


@runtime_checkable
class Metric(Protocol):
    """Closeness of matched pairs, one value per pair, on inputs as people see them."""

    @property
    def name(self) -> str:
        """The name that plans and reports use."""
        ...

    @property
    def unit(self) -> str:
        """The unit of its values, such as "dB"; "" for none."""
        ...

    @property
    def higher_is_closer(self) -> bool:
        """Whether higher values mean closer, and so worse for the client."""
        ...

    @property
    def accepts(self) -> frozenset[Kind]:
        """The kinds of inputs that it compares."""
        ...

    def __call__(self, rebuilt: Tensor, private: Tensor) -> Float[Tensor, " n"]:
        """One value per pair."""
        ...


R = TypeVar("R", Attack, Tampering, Defence, Check)


@dataclass(frozen=True)
class Card(Generic[R]):
    """How the catalogue, the CLI, the docs and the benchmarks see one component.

    Attributes:
        title: the method's name in the field.
        paper: authors, venue, year, arXiv number.
        summary: one sentence for a table.
        presets: name to component; "paper" is required, "quick" and "strong" are customary.
        role: what the server must be willing to do.
        needs: grants without which it cannot run.
        accepts: the kinds of inputs that it works on.
        iterative: it searches, so it can use up any budget; under a budget the others go first.
        reads: of a tampering: it brings the attack that reads the answers, so it is an entry of `attacks`.
        standard: it is part of `standard`; None: if it is fedspill's own.
        origin: the package that a component from outside comes from, such as "my-attacks 1.0"; the catalogue sets it.
        own_data: of a check: it looks at what the client's own examples give, and is not run without any.
    """

    title: str
    paper: str
    summary: str
    presets: Mapping[str, R]
    role: ServerRole = ServerRole.HONEST_BUT_CURIOUS
    needs: frozenset[Knows] = frozenset()
    accepts: frozenset[Kind] = frozenset({ImageSpec})
    iterative: bool = False
    reads: bool = False
    standard: bool | None = None
    origin: str = ""
    own_data: bool = False

    @property
    def in_standard(self) -> bool:
        """Whether `standard` runs it where it fits."""
        return not self.origin if self.standard is None else self.standard
