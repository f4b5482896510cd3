"""A reconstruction of a captured update beside its truth: an audit of one trial, by the same scores and verdict."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fedspill.auditing.capturing.updates import SIGNS, Sent
from fedspill.auditing.judge import prior_only
from fedspill.auditing.resolving.scenario import Scenario, prepare
from fedspill.auditing.run import AuditResult, conclude
from fedspill.auditing.servers import Sent as Served
from fedspill.auditing.servers import Servers
from fedspill.auditing.trial import Finished, Posed, Task, judged
from fedspill.auditing.watch import TrialWatch
from fedspill.core.errors import BadInput
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.roles import Attack, Job
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.plan.file import parse_plan
from fedspill.plan.sections import AttackEntry
from fedspill.report.store import Store
from fedspill.report.trial import Labels
from fedspill.zoo.data import DataPool


@dataclass(frozen=True)
class Judging:
    """By what a reconstruction is judged.

    Attributes:
        truth: the examples behind the update, over all clients.
        leak_threshold: metric to value, an example leaks when all are met; None takes those of the kind of data, as
            an audit does.
    """

    truth: DataPool
    leak_threshold: dict[str, float] | None = None


def scenario_of(judging: Judging, entry: AttackEntry, job: Job, seed: int, *, drawn: bool = False) -> Scenario:
    """The audit that one captured update is, with what the server was granted of it.

    Args:
        drawn: the client drew masks, views or an order that nobody knows.

    Raises:
        BadInput: the truth does not fit the model, the number of clients or what was granted.
    """
    knowledge, count = job.knowledge, len(judging.truth)
    if knowledge.num_examples not in (None, count):
        raise BadInput(f"num_examples={knowledge.num_examples} was given, and the truth holds {count} examples")
    plan = parse_plan(_table(judging, entry, knowledge, seed))
    pool = judging.truth if judging.truth.has_labels else _standing_in(judging.truth, knowledge.model)
    scenario = prepare(plan, knowledge.model.like.device, model=knowledge.model, pool=pool)
    clients = replace(scenario.clients, training=_training(job), draws=drawn)
    return replace(scenario, clients=clients, model=knowledge.model, knows=knowledge.holds(), captured=True)


def _standing_in(pool: DataPool, model: Model) -> DataPool:
    """A pool without labels, with zeros in a form that the loss takes: classes, or one number for each logit."""
    first = pool.batch[:1].to(model.like)
    with torch.no_grad():
        logits = model.in_eval_mode().logits(model.params, model.input.encode(first.inputs))
        try:
            model.loss_fn(logits, first.labels)
        except (RuntimeError, ValueError, IndexError, TypeError):  # of anyone's
            labels = torch.zeros(len(pool), *logits.shape[1:], dtype=torch.float32)
            return replace(pool, batch=Batch(pool.batch.inputs, labels))
    return pool


def settled(scenario: Scenario, sent: Sent, model: Model) -> Sent:
    """What was captured, turned round if it is the other way than what the truth gives.

    Which way a trainer writes a delta is its convention, which its server knows; nothing else of the truth is used.

    Args:
        sent: whose own values do not tell their sign.
    """
    assert sent.turned is not None, "asked only where the sign is not known"
    if not scenario.pool.has_labels or sent.update.norm() == 0:
        return sent
    private, clients = scenario.private(0).to(model.like), scenario.clients
    wanted = aggregate_update(
        model, model.input.encode(private.inputs), private.labels, clients.training, clients.count
    )
    cosine = _cosine(sent.update, wanted)
    if abs(cosine) < BEYOND_DOUBT:
        return _noted(sent, UNDECIDED_BY_TRUTH.format(cosine))
    said = TURNED_BY_TRUTH if cosine < 0 else KEPT_BY_TRUTH
    return _noted(sent.turned() if cosine < 0 else sent, said.format(cosine))


BEYOND_DOUBT = 0.5
"""Cosine, of either sign, with what the truth gives."""
KEPT_BY_TRUTH = "The delta is server minus client: its cosine with what the truth gives is {:.2f}."
TURNED_BY_TRUTH = (
    "The delta is client minus server, for its cosine with what the truth gives is {:.2f}, and was turned round before"
    " the attack."
)
UNDECIDED_BY_TRUTH = (
    "The delta was taken as server minus client: nothing in it tells its sign, nor does the truth (cosine {:.2f})."
)


def _noted(sent: Sent, said: str) -> Sent:
    """With this in the place of what is said of the sign."""
    return replace(sent, notes=tuple(said if note in SIGNS.values() else note for note in sent.notes), turned=None)


def _cosine(one: Update, other: Update) -> float:
    pairs = [(v.double(), other.values[k].double()) for k, v in one.values.items() if k in other.values]
    both = sum(float((a * b).sum()) for a, b in pairs)
    return both / max(one.norm() * other.norm(), torch.finfo(torch.float64).tiny)


def _table(judging: Judging, entry: AttackEntry, knowledge: ServerKnowledge, seed: int) -> dict[str, Any]:
    """The plan that says the same, as far as a plan can."""
    model = knowledge.model
    audit: dict[str, Any] = {"attacks": [entry.model_dump()], "seeds": [seed]}
    if judging.leak_threshold is not None:
        audit["leak_threshold"] = judging.leak_threshold
    dtype = str(model.like.dtype).removeprefix("torch.")
    return {
        "audit": audit,
        "model": {"mode": "train" if model.training else "eval", "dtype": dtype},
        "client": {"num_examples": len(judging.truth), "clients": knowledge.num_clients},
        "server": {"knows": [k.value for k in knowledge.holds() - {Knows.PUBLIC_DATA}]},
    }


def _training(job: Job) -> LocalTraining:
    """The protocol as far as it is known, of the parameters that were sent."""
    training = job.knowledge.local_training or FedSGD()
    sent = job.update.values.keys()
    return training if sent == job.knowledge.model.params.keys() else replace(training, trainable=tuple(sent))


def concluded(
    scenario: Scenario,
    attack: Attack,
    job: Job,
    returned: Reconstruction,
    watch: TrialWatch,
    *,
    seconds: float,
    started: str,
    out: Path | None,
    command: str,
) -> AuditResult:
    """The scores, and the verdict, of what an attack returned of the scenario's one update."""
    servers, private = Servers(scenario), scenario.private(0)
    task = Task(scenario.worlds[0], 0, scenario.seeds[0])
    posed = Posed(task, private, Served(job.knowledge.model, attack, 0), job)
    labelled = scenario.pool.has_labels
    shown = returned if labelled else replace(returned, labels=None, label_method=None)
    priors = functools.cache(lambda update, seed: prior_only(scenario, scenario.private(update), seed))
    done = judged(servers, posed, shown, seconds, watch, priors)
    record = done.record.model_copy(update=_unknown(returned, job, labelled, scenario.clients.draws))
    store = None if out is None else Store(out, "")
    return conclude(
        scenario, [Finished(record, done.tensors)], store, started=started, seconds=seconds, command=command
    )


def _unknown(returned: Reconstruction, job: Job, labelled: bool, drawn: bool) -> dict[str, Any]:
    """What cannot be said of an update whose labels, whose protocol or whose draws nobody told."""
    changes = dict[str, Any]()
    if drawn or not labelled or job.knowledge.local_training is None:
        changes |= {"self_check": None, "self_check_length": None}
    if not labelled and returned.labels is not None:
        source = "granted" if returned.label_method is None else "inferred"
        changes["labels"] = Labels(source=source, method=returned.label_method)
    return changes
