"""A plan resolved into the things that it speaks of: model, data, clients, attacks, and how these are judged.

It is resolved here, once: nothing that runs or judges a trial reads it again.
"""

import json
import math
from dataclasses import dataclass, replace

import torch

import fedspill
from fedspill.auditing.resolving.components import (
    Chosen,
    ChosenDefence,
    ChosenTampering,
    Components,
    check_kinds,
    components_of,
)
from fedspill.auditing.resolving.defaults import check_policy, resolved
from fedspill.auditing.resolving.digests import behaviour, loss_digits, weights_sha256
from fedspill.auditing.resolving.evaluation import Evaluation, evaluation_of
from fedspill.auditing.resolving.fit import check_fit
from fedspill.auditing.resolving.pools import private_pool, public_pool
from fedspill.auditing.resolving.rounds import Rounds, rounds_of, sizes_of
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec, kind
from fedspill.core.knowledge import KnownDefence, Knows
from fedspill.core.local_training.draws import with_draws
from fedspill.core.local_training.losses import loss_of
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import NeedsExposure, Stages, UpdateExposure, known_defence, measured
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch
from fedspill.plan.build import described_network
from fedspill.plan.sections import AuditPlan, ClientSection, FederationSection, PolicySection
from fedspill.plan.training import training_of
from fedspill.scoring.metrics import by_names
from fedspill.zoo.data import DataPool
from fedspill.zoo.data.cut import cut
from fedspill.zoo.models import default_network


@dataclass(frozen=True)
class Clients:
    """How the clients of one update compute what they send.

    Attributes:
        count: clients whose updates are averaged before the server sees anything.
        micro_batch: examples that a client holds in memory at a time; None is all.
        defences: what every client applies, in this order.
        draws: they draw something: masks, views or orders.
    """

    count: int
    training: LocalTraining
    micro_batch: int | None
    defences: tuple[Stages, ...]
    draws: bool = False

    def drawing(self, update: int, seed: int) -> LocalTraining:
        """The protocol with the draws behind one update."""
        return with_draws(self.training, stream(seed, "draws", update)) if self.draws else self.training


@dataclass(frozen=True)
class Limits:
    """When searches end, and how many updates share one.

    Attributes:
        budget: seconds for all trials together; None is no limit.
        quality: PSNR in dB at which a search may stop by its own estimate; None never stops it.
        at_once: updates that an attack takes together, if it can.
    """

    budget: float | None
    quality: float | None
    at_once: int


@dataclass(frozen=True)
class Scenario:
    """All that the trials of an audit share.

    Attributes:
        plan: with every default filled in, for the report; nothing else reads it.
        network: name of the plan's model, or of the one that stands in for it; None if the model is the caller's.
        weights: where the plan's model has its parameters from, in the plan's words; None likewise.
        model: as the defences' `prepare` left it.
        groups: for each update the positions of its examples in the pool.
        rounds: the federation that updates are out of; None where each is answered to the model as it is.
        worlds: attacks, and tamperings that bring their own readout.
        tampering: on whose model the attacks are run, if any.
        knows: what the server is granted.
        normalisation: who says what the model's images are normalised by; None if it is not known, or there are none.
        captured: its one update was sent by somebody else's trainer.
        idle: names of defences that have nothing to change in this network.
    """

    plan: AuditPlan
    network: str | None
    weights: str | None
    model: Model
    pool: DataPool
    groups: list[list[int]]
    public: DataPool | None
    worlds: tuple[Chosen, ...]
    seeds: tuple[int, ...]
    clients: Clients
    defences: tuple[ChosenDefence, ...]
    tampering: ChosenTampering | None
    knows: frozenset[Knows]
    evaluation: Evaluation
    limits: Limits
    policy: PolicySection
    rounds: Rounds | None = None
    normalisation: str | None = None
    captured: bool = False
    idle: tuple[str, ...] = ()

    def private(self, update: int) -> Batch:
        """The examples behind one update, on the model's device; where they are if clients take micro-batches."""
        places = self.groups[update]
        consecutive = places == list(range(places[0], places[0] + len(places)))
        batch = self.pool.batch[slice(places[0], places[-1] + 1) if consecutive else places]
        return batch if self.clients.micro_batch else batch.to(self.model.like)

    @property
    def public_batch(self) -> Batch | None:
        """The public examples, on the model's device."""
        return None if self.public is None else self.public.batch.to(self.model.like)

    @property
    def granted_public(self) -> Batch | None:
        """The public examples, if the server was granted them."""
        return self.public_batch if Knows.PUBLIC_DATA in self.knows else None

    def known_defence(self, model: Model) -> KnownDefence | None:
        """What a server knows of the clients' defences that is granted their settings."""
        known = known_defence([d.component for d in self.defences], model)
        return known if known is None or self.repeats == 1 else known.averaged(self.repeats)

    @property
    def repeats(self) -> int:
        """Answers to one model of which the server takes the mean."""
        return self.plan.server.repeats

    @property
    def releases(self) -> int:
        """Updates that the server gets of one client's examples, over all rounds."""
        return self.repeats if self.plan.federation is None else self.plan.federation.rounds

    @property
    def simulated_stages(self) -> tuple[Stages, ...] | None:
        """The clients' defences as the server knows them, to simulate such clients.

        None where one attacks updates, or where the mean of several answers would have to be simulated each time.
        """
        if self.repeats > 1:
            return None
        if Knows.DEFENCE not in self.knows:
            return ()
        costly = any(isinstance(d.component, NeedsExposure) for d in self.defences)
        return None if costly else self.clients.defences

    def key(self, *, redact: bool) -> str:
        """A digest of everything that decides what a folder holds; budget, `at_once` and policy do not."""
        plan = self.plan.model_dump(mode="json", exclude={"audit": {"budget", "at_once"}, "policy": True})
        frozen = [sorted(self.model.frozen)] if self.model.frozen else []
        conditions = [
            *frozen,
            *loss_digits(self.model),
            plan,
            redact,
            fedspill.__version__,
            torch.__version__,
            self.model.like.device.type,
            self.model.training,
        ]
        network = repr((self.model.input, self.model.module, self.pool.indices, behaviour(self.model)))
        pools = [pool.batch for pool in (self.pool, self.public) if pool is not None]
        examples = (  # one by one: a pool may be large
            content for pool in pools for content in (repr(tuple(pool.inputs.shape)), *pool.inputs, pool.labels)
        )
        return sha256(json.dumps(conditions, sort_keys=True), network, weights_sha256(self.model), *examples)


def prepare(
    plan: AuditPlan,
    device: torch.device,
    *,
    model: Model | None = None,
    pool: DataPool | None = None,
    normalisation: str | None = None,
    exposure: UpdateExposure | None = None,
) -> Scenario:
    """Resolves a plan: chooses its components, loads its data and model, and checks that they fit together.

    Args:
        plan: what the caller asked for.
        device: where the model goes.
        model: used instead of the plan's.
        pool: private examples, used instead of the plan's.
        normalisation: who says what the images of `model` are normalised by.
        exposure: what defences that ask for it measure an update by.

    Raises:
        BadInput: something cannot be had, or does not fit together.
        NotApplicable: a component that the plan names does not work on inputs of this kind.
    """
    components = _checked(plan)
    pool = pool or private_pool(plan.data)
    public = public_pool(plan, pool)
    clients = _clients(plan.client, components, exposure)
    given = model is not None
    if model is None:
        made = described_network(plan.model, pool, plan.data.root, device, public=public)
        model, normalisation = made.model, made.normalisation
    else:
        model = _callers_model(plan, pool, model, device)
    if plan.client.loss is not None:
        model = model.with_loss(loss_of(plan.client.loss))
    model, idle = _prepared(model, components, clients)
    check_kinds(components, model.input)
    plan = resolved(plan, model.input)
    scenario = Scenario(
        plan=plan,
        network=None if given else plan.model.name or default_network(pool.spec),
        weights=None if given else plan.model.weights,
        model=model,
        pool=pool,
        groups=_groups(plan, pool),
        public=public,
        worlds=components.worlds,
        seeds=plan.audit.seeds,
        clients=clients,
        defences=components.defences,
        tampering=components.tampering,
        knows=frozenset(plan.server.granted),
        evaluation=evaluation_of(plan.audit, model.input),
        limits=Limits(_limit(plan.audit.budget), plan.audit.quality, plan.audit.at_once),
        policy=plan.policy,
        normalisation=normalisation,
        idle=idle,
    )
    first = _first(scenario)
    draws = check_fit(model, first, pool.batch.labels, clients.training, clients.defences, clients.micro_batch)
    clients = replace(clients, draws=draws)
    scenario = replace(scenario, clients=clients)
    _check_repeats(scenario)
    return scenario if plan.federation is None else _in_rounds(scenario, plan.federation)


def _prepared(model: Model, components: Components, clients: Clients) -> tuple[Model, tuple[str, ...]]:
    """The model as the defences change it, and the names of those that could change it alone and did not."""
    idle = list[str]()
    for chosen, stages in zip(components.defences, clients.defences, strict=True):
        before, model = model, stages.prepare(model)
        if model is before and stages == Stages(prepare=stages.prepare):
            idle.append(chosen.name)
    return model, tuple(idle)


def _check_repeats(scenario: Scenario) -> None:
    if scenario.repeats == 1:
        return
    got = f"server.repeats = {scenario.repeats}"
    if scenario.plan.federation is not None:
        raise BadInput(f"{got}: a federation has rounds of its own; leave repeats out, or [federation]")
    if scenario.clients.draws:
        raise BadInput(f"{got}: these clients draw masks, views or orders anew each time; no mean is taken of that")
    known = known_defence([d.component for d in scenario.defences], scenario.model)
    if known is not None and not known.averages:
        names = " and ".join(known.names)
        raise BadInput(f"{got}: of {names} no mean is taken; it is for noise, and clipping before it")


def _limit(budget: float | None) -> float | None:
    return None if budget == math.inf else budget


def _checked(plan: AuditPlan) -> Components:
    """The components of a plan; what is wrong with its names and its policy is told before anything is loaded."""
    check_policy(plan)
    components = components_of(plan)
    by_names(plan.audit.metrics or ())
    return components


def _clients(section: ClientSection, components: Components, exposure: UpdateExposure | None) -> Clients:
    stages = tuple(measured(defence.component, exposure).stages() for defence in components.defences)
    return Clients(section.clients, training_of(section), section.micro_batch, stages)


def _in_rounds(scenario: Scenario, section: FederationSection) -> Scenario:
    clients = scenario.clients
    rounds = rounds_of(
        section, scenario.plan.client, scenario.pool.batch, clients.training, clients.defences, clients.draws
    )
    return replace(scenario, rounds=rounds, groups=rounds.groups())


def _groups(plan: AuditPlan, pool: DataPool) -> list[list[int]]:
    """The positions of each update's examples in the pool; of a federation those of its first client."""
    section = plan.client
    if plan.federation is not None:
        return cut(pool, sizes_of(plan.federation, section)[0])[:1]
    size, share = section.minibatch_size, section.num_examples // section.clients
    if section.clients > 1:  # mini-batches begin anew with every client
        size = size if size and share % size == 0 else None
    return cut(pool, section.num_examples, section.distinct_labels, size)


def _callers_model(plan: AuditPlan, pool: DataPool, model: Model, device: torch.device) -> Model:
    given = ImageSpec if pool.spec is None else type(pool.spec)
    if isinstance(model.input, ImageSpec | TokenSpec | TableSpec) and given is not type(model.input):
        raise BadInput(f"the model takes {kind(type(model.input))}, the data are {kind(given)}")
    if pool.spec is not None and model.input != pool.spec:
        raise BadInput(
            f"the model takes {kind(given)} of another encoding than the data's; its input must be pool.spec"
        )
    unused = sorted(plan.model.model_fields_set - {"mode", "dtype"} | set(plan.model.options))
    if unused:
        raise BadInput(f"the plan sets model.{', model.'.join(unused)}, but a model was given; set one or the other")
    return model.to(device, getattr(torch, plan.model.dtype))


def _first(scenario: Scenario) -> Batch:
    """The first examples of the first client, as many as are on the device at a time."""
    share = len(scenario.groups[0]) // (scenario.clients.count if scenario.plan.federation is None else 1)
    return scenario.private(0)[:share][: scenario.clients.micro_batch].to(scenario.model.like)
