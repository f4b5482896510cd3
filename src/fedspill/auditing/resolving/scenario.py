"""A plan resolved into the things that it speaks of: model, data, clients, attacks, and how these are judged.

It is resolved here, once: nothing that runs or judges a trial reads it again.
"""

import json
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

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
from fedspill.auditing.resolving.evaluation import Evaluation, evaluation_of
from fedspill.auditing.resolving.rounds import Rounds, rounds_of, sizes_of
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec, kind
from fedspill.core.knowledge import Knows
from fedspill.core.local_training.draws import draws_anything, is_random, with_draws
from fedspill.core.local_training.losses import loss_of
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.model import Model, next_token_loss
from fedspill.core.probing.inputs import random_like
from fedspill.core.probing.state import check_memory
from fedspill.core.rng import randn, seeded_globals, stream
from fedspill.core.roles import Stages
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch
from fedspill.federation.client import Client
from fedspill.inversion.network.trace import probe_inputs
from fedspill.plan.build import described_network
from fedspill.plan.sections import AuditPlan, ClientSection, FederationSection, PolicySection, PoolSection
from fedspill.scoring.metrics import by_names
from fedspill.zoo.data import DataPool, load, takes
from fedspill.zoo.data.cut import cut
from fedspill.zoo.models import default_network

MOST_LOGITS = 1000
"""Logits by which a network's behaviour is known again, at most."""


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
        network = repr((self.model.input, self.model.module, self.pool.indices, _behaviour(self.model)))
        pools = [pool.batch for pool in (self.pool, self.public) if pool is not None]
        examples = (  # one by one: a pool may be large
            content for pool in pools for content in (repr(tuple(pool.inputs.shape)), *pool.inputs, pool.labels)
        )
        return sha256(json.dumps(conditions, sort_keys=True), network, weights_sha256(self.model), *examples)


def _behaviour(model: Model) -> list[str]:
    """What the network says of one input, to the digits that no number of threads changes: its code may have."""
    calm = model.in_eval_mode()
    z = randn((1, *model.input.encoded_shape), stream(0, "key"), model.like)
    if isinstance(model.input, TokenSpec):
        z = probe_inputs(model.input, 1, model.like)
    with torch.no_grad():
        return [f"{v:.2e}" for v in calm.logits(calm.params, z).flatten()[:MOST_LOGITS].tolist()]


def loss_digits(model: Model) -> list[str]:
    """What the loss says of arbitrary logits: by its code alone no loss is known again; [] for plain cross-entropy."""
    if model.loss_fn in (functional.cross_entropy, next_token_loss):
        return []
    with torch.no_grad():
        shape = model.in_eval_mode().logits(model.params, probe_inputs(model.input, 1, model.like)).shape
        count = min(max(2, shape[-1]), MOST_LOGITS)
        logits = random_like(model.like.new_empty(count, *shape[1:]), "loss")
        classes = torch.arange(count, device=logits.device)
        for labels in (classes, (classes[:, None] == torch.arange(shape[-1], device=logits.device)).to(logits)):
            try:
                return [f"{float(model.loss_fn(logits, labels)):.4e}"]
            except Exception:  # a loss of anyone's, that takes other labels
                continue
    return [type(model.loss_fn).__qualname__]


def weights_sha256(model: Model) -> str:
    """A digest of names and values of all parameters and buffers."""
    return sha256({**model.params, **model.buffers})


def prepare(
    plan: AuditPlan,
    device: torch.device,
    *,
    model: Model | None = None,
    pool: DataPool | None = None,
    normalisation: str | None = None,
) -> Scenario:
    """Resolves a plan: chooses its components, loads its data and model, and checks that they fit together.

    Args:
        plan: what the caller asked for.
        device: where the model goes.
        model: used instead of the plan's.
        pool: private examples, used instead of the plan's.
        normalisation: who says what the images of `model` are normalised by.

    Raises:
        BadInput: something cannot be had, or does not fit together.
        NotApplicable: a component that the plan names does not work on inputs of this kind.
    """
    components = _checked(plan)
    pool = pool or _pool(plan.data)
    public = _public(plan, pool)
    clients = _clients(plan.client, components)
    given = model is not None
    if model is None:
        made = described_network(plan.model, pool, plan.data.root, device, public=public)
        model, normalisation = made.model, made.normalisation
    else:
        model = _callers_model(plan, pool, model, device)
    if plan.client.loss is not None:
        model = replace(model, loss_fn=loss_of(plan.client.loss))
    for defence in clients.defences:
        model = defence.prepare(model)
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
        knows=frozenset(plan.server.knows),
        evaluation=evaluation_of(plan.audit, model.input),
        limits=Limits(plan.audit.budget, plan.audit.quality, plan.audit.at_once),
        policy=plan.policy,
        normalisation=normalisation,
    )
    _check_fit(scenario)
    clients = replace(clients, draws=_draw_anything(scenario))
    scenario = replace(scenario, clients=clients)
    return scenario if plan.federation is None else _in_rounds(scenario, plan.federation)


def _checked(plan: AuditPlan) -> Components:
    """The components of a plan; what is wrong with its names and its policy is told before anything is loaded."""
    check_policy(plan)
    components = components_of(plan)
    by_names(plan.audit.metrics or ())
    return components


def _clients(section: ClientSection, components: Components) -> Clients:
    stages = tuple(defence.component.stages() for defence in components.defences)
    return Clients(section.clients, section.training(), section.micro_batch, stages)


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


def _draw_anything(scenario: Scenario) -> bool:
    model = scenario.model
    return draws_anything(model, scenario.clients.training, model.input.encode(_first(scenario).inputs))


def _check_fit(scenario: Scenario) -> None:
    """Computes a first update (of one micro-batch): what does not fit is told now, not in the midst of an audit.

    Raises:
        BadInput: a network that draws in eval mode, one with a memory, labels that the model does not know, or an
            update that cannot be computed.
    """
    model, clients, first = scenario.model, scenario.clients, _first(scenario)
    try:
        _check_labels(model, first, scenario.pool.batch.labels)
        if is_random(model.in_eval_mode(), model.input.encode(first.inputs)):
            raise BadInput(
                "the network draws random numbers in eval mode too, so that no two answers agree; F.dropout and its kin"
                " want training=self.training"
            )
        check_memory(model)
        client = Client(first, clients.training, clients.defences, clients.micro_batch)
        with seeded_globals(stream(0, "check")):
            sent = client.respond(model, stream(0, "check"))
        if sent is not None and not sent.values and clients.training.conditions.loss_scale == 1:
            raise BadInput(
                "no gradient reaches a parameter that is trained (no_grad, detach, or frozen): the clients send nothing"
            )
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, BadInput):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the client cannot compute an update with this model, data and mode: {reason}") from error


def _check_labels(model: Model, first: Batch, labels: Tensor) -> None:
    """Labels are classes that the model knows, or targets of the logits' shape.

    Raises:
        BadInput: they are neither.
    """
    logits = model.in_eval_mode().logits(model.params, model.input.encode(first[:1].inputs))
    if labels[:1].shape == logits.shape:
        return
    if logits.ndim != labels.ndim + 1:
        raise BadInput(
            f"the model's logits for one example have shape {tuple(logits.shape)}, its labels"
            f" {tuple(labels[:1].shape)}: next tokens want logits at every token, classes want them once"
        )
    highest, classes = int(labels.max()), max(2, logits.shape[-1])  # one output tells two classes apart
    if highest >= classes:
        raise BadInput(f"the data has labels up to {highest}, the model knows {classes} classes (0 to {classes - 1})")


def _pool(section: PoolSection) -> DataPool:
    return load(
        section.name,
        root=section.root,
        split=section.split,
        indices=section.indices,
        size=section.size,
        length=section.length,
        tokenizer=section.tokenizer,
        label=section.label,
    )


def public_pool(plan: AuditPlan, pool: DataPool) -> DataPool | None:
    """The public examples that a plan names, disjoint from the private ones; None if it names none.

    Raises:
        BadInput: they are not to be had, are of another kind, or private ones are among them.
    """
    return _public(plan, pool)


def _public(plan: AuditPlan, pool: DataPool) -> DataPool | None:
    section = plan.server.public
    if section is None:
        if Knows.PUBLIC_DATA not in plan.server.knows:
            return None
        raise BadInput("server.knows grants public_data, but server.public names none")
    public = _pool(_completed(section, plan.data, pool))
    if public.spec != pool.spec or public.batch.inputs.shape[1:] != pool.batch.inputs.shape[1:]:
        raise BadInput(f"public examples are {_describe(public)}, private ones {_describe(pool)}; they must agree")
    shared = _shared(pool, public)
    if shared and (pool.spec is None or _same_source(pool, public)):
        raise BadInput(f"{len(shared)} examples are both public and private; the two must be disjoint")
    return _without(public, shared) if shared else public


def _completed(section: PoolSection, private: PoolSection, pool: DataPool) -> PoolSection:
    """What the public section leaves out and its source takes is as in the private one."""
    side = pool.batch.inputs.shape[-1] if pool.spec is None else None
    length = pool.spec.length if isinstance(pool.spec, TokenSpec) else None
    known = {"size": side, "length": length, "tokenizer": private.tokenizer, "label": private.label}
    missing = {k: known[k] for k in takes(section.name) if getattr(section, k) is None}
    return section.model_copy(update=missing)


def _describe(pool: DataPool) -> str:
    match pool.spec:
        case TokenSpec(length, vocabulary):
            return f"sentences of {length} tokens out of {vocabulary}"
        case TableSpec(columns):
            return f"rows of {len(columns)} columns with their own encoding ({columns[0].name}, ...)"
        case None:
            return f"images of shape {tuple(pool.batch.inputs.shape[1:])}"


def _same_source(pool: DataPool, public: DataPool) -> bool:
    """The very same examples were taken: one source, and positions in common."""
    return pool.name == public.name and not set(pool.indices).isdisjoint(public.indices)


def _shared(pool: DataPool, public: DataPool) -> list[int]:
    """Positions in `public` of examples that are private too."""
    known = _digests(pool.batch)
    return [k for k, x in enumerate(public.batch.inputs) if sha256(x) in known]


def _without(public: DataPool, shared: list[int]) -> DataPool:
    """Two people may share a row and two texts a sentence: public data keep none that equals a private one.

    Raises:
        BadInput: nothing is left.
    """
    kept = [k for k in range(len(public)) if k not in set(shared)]
    if not kept:
        raise BadInput(f"all {len(shared)} public examples equal private ones; the two must be disjoint")
    return replace(
        public,
        batch=public.batch[kept],
        indices=tuple(public.indices[k] for k in kept),
        source=f"{public.source}, without {len(shared)} that equal private ones",
    )


def _digests(batch: Batch) -> set[str]:
    return {sha256(x) for x in batch.inputs}
