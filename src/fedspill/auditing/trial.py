"""One trial: the server sends, the clients answer, the server attacks, the truth is opened."""

import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedspill.auditing.certifying.claims import claims
from fedspill.auditing.certifying.counting import certified
from fedspill.auditing.certifying.doubts import unsure
from fedspill.auditing.judge import judge
from fedspill.auditing.readings import Ranked, copies, most_confident, ranked, readings
from fedspill.auditing.resolving.components import Chosen, misfit
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.servers import Seen, Sent, Servers
from fedspill.auditing.watch import TrialWatch
from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import Knows
from fedspill.core.local_training.update import (
    LocalTraining,
    aggregate_update,
    encoded_update,
    equal_shares,
    mean_update,
)
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Card, Forecast, Job, Prediction, Predicts, Stages
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.core.watching.clock import OutOfTime, until
from fedspill.federation.aggregation import collect, mean_of_answers
from fedspill.federation.client import Client, shared_out
from fedspill.federation.threat import observe
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.report.certified import Certified
from fedspill.report.trial import Baseline, Reading, SearchForecast, Trial

JUDGING = 2.5
"""Times what the clients took: an attack judges what it found by computing the update of it, and of a blank guess."""
UNCHECKED = "The budget ended before {} computed."
CURVE_POINTS = 200
MOST_LETTERS = 100


Priors = Callable[[int, int], list[Baseline]]
"""Update and seed to what is scored without the update."""


@dataclass(frozen=True)
class Task:
    """Which trial to run."""

    world: Chosen
    update: int
    seed: int

    @property
    def name(self) -> str:
        """Unique within an audit, and fit for a file name."""
        plain = re.sub(r"[^A-Za-z0-9_.=-]+", "-", self.world.label).strip("-")
        if len(plain) > MOST_LETTERS:
            plain = f"{plain[:MOST_LETTERS]}-{sha256(self.world.label)[:8]}"
        return f"{plain}.u{self.update}.s{self.seed}"


@dataclass(frozen=True)
class Finished:
    """A trial's record, with its tensors.

    Attributes:
        tensors: "rebuilt", what was scored, and "unscored", what the attack returned beyond that.
        unfit: skipped, as the attack, which the plan names, does not fit this update.
    """

    record: Trial
    tensors: Mapping[str, Tensor]
    unfit: bool = False


@dataclass(frozen=True)
class Posed:
    """A trial before its attack: what was sent, and what the attack is given.

    Attributes:
        private: what no attack sees.
        seen: of a federation, what of which round this is.
        seconds: that the clients took for their answers.
    """

    task: Task
    private: Batch
    served: Sent
    job: Job
    seen: Seen | None = None
    seconds: float = 0.0


def run_trial(servers: Servers, task: Task, watch: TrialWatch, priors: Priors) -> Finished:
    """Runs one trial; an attack that does not fit this update is recorded as skipped, as others may fit.

    Raises:
        NotApplicable: the plan named an attack that does not fit the kind of data.
    """
    began = time.perf_counter()
    if task.world.explicit and (reason := misfit(task.world.card, servers.scenario.model.input)) is not None:
        raise refusal(task, reason)
    try:
        with until(None if watch.hard is None else watch.last_moment):
            posed = pose(servers, task, watch)
            if isinstance(posed, Finished):
                return posed
            job = posed.job
            watch.leave(JUDGING * posed.seconds)
            returned = posed.served.attack.reconstruct(job.update, job.knowledge, job.rng, watch)
    except NotApplicable as reason:
        # Another round may be different; and what a defence hides from an attack is a result, no fault of the plan.
        scenario = servers.scenario
        unfit = task.world.explicit and scenario.rounds is None and not scenario.defences
        return Finished(blank(servers.scenario, task, skipped=str(reason)), {}, unfit)
    except OutOfTime:
        return given_up(servers.scenario, task, watch)
    if watch.useless is not None:
        return given_up(servers.scenario, task, watch)
    return judged(servers, posed, returned, time.perf_counter() - began, watch, priors)


def given_up(scenario: Scenario, task: Task, watch: TrialWatch) -> Finished:
    """The record of an attack that the budget leaves no useful share of its work; a larger one runs it."""
    watch.ended = True
    reason = watch.useless or "its share of the budget ended before it had a first result"
    record = blank(scenario, task, skipped=f"not started: {reason}" if watch.useless else reason)
    expected = watch.forecasted
    foreseen = None if expected is None else _share_of(expected)
    return Finished(record.model_copy(update={"ended_by_budget": True, "foreseen": foreseen}), {})


def refusal(task: Task, reason: str | None) -> NotApplicable:
    """Of an attack that the plan names and that fits none of its updates."""
    return NotApplicable(f"attack {task.world.label!r} does not apply: {reason}")


def pose(servers: Servers, task: Task, watch: TrialWatch) -> Posed | Finished:
    """What the server sends and what it is answered; a finished trial where that is nothing to attack.

    Raises:
        NotApplicable: the attack does not fit.
    """
    scenario = servers.scenario
    private, seen = scenario.private(task.update), None
    if (reason := misfit(task.world.card, scenario.model.input)) is not None:
        raise NotApplicable(reason)
    seconds = 0.0
    if scenario.rounds is None:
        served = servers.sent(task.world, task.seed, watch)
        update, seconds = servers.answer(
            served.model, task.update, task.seed, lambda: _answer(scenario, served, private, task, watch)
        )
    else:
        seen = servers.seen(task.world, task.seed, task.update, watch)
        served, update = seen.sent, seen.update
    if update is None:
        return Finished(blank(scenario, task, skipped="the clients' defences withheld every update"), {})
    if (nothing := _nothing_in(update)) is not None:
        return Finished(blank(scenario, task, skipped=nothing), {})
    job = _job(scenario, served, update, private, task, seen)
    return Posed(task, private, served, job, seen, seconds)


def judged(
    servers: Servers, posed: Posed, returned: Reconstruction, seconds: float, watch: TrialWatch, priors: Priors
) -> Finished:
    """What was returned beside the truth."""
    scenario, task, private, update = servers.scenario, posed.task, posed.private, posed.job.update
    served, sent, attack = posed.served, posed.served.model, posed.served.attack
    returned = unsure(returned, posed.job.knowledge)
    order = ranked(returned.confidence, len(returned.inputs), len(private))
    rebuilt = most_confident(returned, len(private))
    expected = _expected(attack, sent, private)
    read, predicted = readings(returned, private.inputs, sent.input, expected, order)
    claimed = _claimed(posed, returned, read, expected)
    check, guesses, unchecked = None, list[Baseline](), list[str]()
    try:
        with until(watch.hard):
            check = servers.check(
                sent,
                task.update,
                task.seed,
                lambda: _self_check(scenario, task, posed.served, update, private, posed.seen),
            )
            guesses = priors(task.update, task.seed)
    except OutOfTime:
        unchecked = [UNCHECKED.format("the guesses without the update were" if check else "the self-check was")]
    record = _record(scenario, task, rebuilt, private, guesses, watch.hard)
    more = [*([watch.plan] if watch.plan else []), *unchecked]
    record = record.model_copy(
        update={
            "readings": read,
            "predicted": predicted,
            "certified": claimed,
            "seconds": seconds,
            "ended_by_budget": watch.ended or watch.poor is not None,
            "searched": watch.searched * (watch.poor or 1.0) if watch.ended or watch.poor is not None else None,
            "foreseen": _forecast(watch, returned),
            "gradient_norm": update.norm(),
            "added_parameters": served.added,
            "different_models": served.for_client is not None,
            "self_check": None if check is None else check[0],
            "self_check_length": None if check is None else check[1],
            "notes": [*record.notes, *more],
            "planned": None if watch.plan is None else watch.share,
        }
    )
    return Finished(record, _tensors(returned, rebuilt, order))


def _claimed(
    posed: Posed, returned: Reconstruction, read: list[Reading], expected: Prediction | None
) -> Certified | None:
    """What the attack claims without the truth, and how much of it is true."""
    found, private = claims(returned, posed.job.knowledge), posed.private
    if not len(found):
        return None
    exact = (
        torch.tensor([r.exact is not None for r in read], dtype=torch.bool)
        if read
        else copies(returned, private.inputs, posed.served.model.input, expected).any(1)
    )
    return certified(posed.task.world.name, found, returned, len(private), int((exact & found.which).sum()))


def _forecast(watch: TrialWatch, returned: Reconstruction) -> SearchForecast | None:
    """One trial's share of what was expected of all that were searched at once; None of one that was only read."""
    expected, searched = watch.forecasted, watch.ended or len(returned.objective) > 1
    if expected is None or (watch.attacked and not searched):
        return None
    return _share_of(expected)


def _share_of(expected: Forecast) -> SearchForecast:
    return SearchForecast(
        iterations=expected.iterations // expected.jobs, seconds=expected.seconds, memory=expected.memory
    )


def _expected(attack: Attack, sent: Model, private: Batch) -> Prediction | None:
    """What the readout must find: asked after the attack is over, of the examples that only the evaluation holds."""
    if not isinstance(attack, Predicts):
        return None
    with torch.no_grad():
        return attack.predict(sent, sent.input.encode(private.inputs))


def _tensors(returned: Reconstruction, rebuilt: Reconstruction, order: Ranked) -> dict[str, Tensor]:
    spare = returned.inputs[torch.tensor(order.unscored, dtype=torch.long).to(returned.inputs.device)]
    tensors = {"rebuilt": rebuilt.inputs} | ({"unscored": spare} if returned.origins and order.unscored else {})
    kept = {k: v.detach().cpu() for k, v in tensors.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}


def _answer(scenario: Scenario, served: Sent, private: Batch, task: Task, watch: TrialWatch) -> Update | None:
    """The mean of what the server gets; of several answers to one model, each with draws of its own, the mean again."""
    clients = _clients(scenario, task, private, scenario.clients.defences)
    again = [stream(task.seed, "clients", task.update, "again", k) for k in range(1, scenario.repeats)]
    answers = (
        collect(served.model, clients, rng, watch.listener.clients, served.for_client)
        for rng in (stream(task.seed, "clients", task.update), *again)
    )
    return mean_of_answers(answers)


def _clients(scenario: Scenario, task: Task, private: Batch, defences: tuple[Stages, ...]) -> list[Client]:
    clients = scenario.clients
    training = clients.drawing(task.update, task.seed)
    return shared_out(private, clients.count, training, defences=defences, micro_batch=clients.micro_batch)


def _job(scenario: Scenario, served: Sent, update: Update, private: Batch, task: Task, seen: Seen | None) -> Job:
    clients = scenario.clients
    # Statistics are those of one network.
    withheld = frozenset[Knows]() if served.for_client is None else frozenset({Knows.BN_STATISTICS})
    knowledge = observe(
        served.model,
        private,
        clients.count if seen is None else len(seen.sizes),
        clients.drawing(task.update, task.seed) if seen is None else seen.training,
        scenario.public_batch,
        scenario.knows - withheld,
        micro_batch=clients.micro_batch,
        sizes=None if seen is None else seen.sizes,
        defence=scenario.known_defence(served.model),
        stages=scenario.simulated_stages if served.for_client is None else None,
    )
    return Job(update, knowledge, stream(task.seed, "attack", task.world.label, task.update))


def _self_check(
    scenario: Scenario, task: Task, served: Sent, update: Update, private: Batch, seen: Seen | None
) -> tuple[float, float] | None:
    """Cosine distance and length at the true input: 0 and 1 up to rounding where attacker and client compute the same.

    With micro-batches on one of them alone, which the client then takes in two parts. With defences on an update
    that was computed without them: what they change is meant to differ.
    """
    clients = scenario.clients
    if seen is not None:
        bare, again = seen.again()
        observed = bare if clients.defences else update
        return None if observed.norm() == 0 else _apart(observed, again)
    if clients.micro_batch is not None and len(private) > clients.micro_batch:
        private = private[: clients.micro_batch]
        update = _in_halves(served.sent_to(0), private, clients.training)
    elif clients.defences:
        bare_clients = _clients(scenario, task, private, ())
        bare = collect(served.model, bare_clients, stream(0, "self-check"), for_client=served.for_client)
        assert bare is not None, "a client without defences withholds nothing"
        update = bare
    if update.norm() == 0:
        return None
    count = 1 if clients.micro_batch else clients.count
    return _apart(update, _recomputed(served, private, clients.drawing(task.update, task.seed), count))


def _recomputed(served: Sent, private: Batch, training: LocalTraining, count: int) -> Update:
    """What the clients' answers are the mean of, as an attack computes it."""
    sent, private = served.model, private.to(served.model.like)
    z = sent.input.encode(private.inputs)
    if served.for_client is None or count == 1:
        return aggregate_update(served.sent_to(0), z, private.labels, training, count)
    shares = enumerate(equal_shares(len(z), count))
    return mean_update(
        [encoded_update(served.sent_to(k), z[p], private.labels[p], training.of_client(k)) for k, p in shares]
    )


def _apart(update: Update, again: Update) -> tuple[float, float]:
    """The cosine distance of two updates, over what the first holds, and the second's length over the first's."""
    with torch.no_grad():
        observed = {k: v.double() for k, v in update.values.items()}
        doubled = {
            k: again.values[k].double() if k in again.values else torch.zeros_like(v) for k, v in observed.items()
        }
        length = again.norm() / update.norm()
        return abs(float(cosine_distance(doubled, observed))), length


def _in_halves(sent: Model, private: Batch, training: LocalTraining) -> Update:
    client = Client(private, training, micro_batch=max(1, len(private) // 2))
    update = client.respond(sent, stream(0, "self-check"))
    assert update is not None, "a client without defences withholds nothing"
    return update


def blank(scenario: Scenario, task: Task, *, skipped: str | None = None) -> Trial:
    """The record of a trial before anything was attacked."""
    card = task.world.card
    return Trial(
        name=task.name,
        attack=task.world.name,
        preset=task.world.label.partition(":")[2],
        title=card.title,
        role=_role(scenario, card).value,
        seed=task.seed,
        update=task.update,
        examples=[scenario.pool.indices[i] for i in scenario.groups[task.update]],
        round=None if scenario.rounds is None else scenario.rounds.observations[task.update].round,
        skipped=skipped,
        origin=card.origin or None,
    )


def _role(scenario: Scenario, card: Card[Any]) -> ServerRole:
    """What the server must be willing to do: for the attack, or for the tampering before it."""
    tampering = scenario.tampering
    return max(card.role, tampering.card.role if tampering else card.role, key=list(ServerRole).index)


def _nothing_in(update: Update) -> str | None:
    """Why there is nothing to attack in this one update, if so; other updates may differ."""
    if not all(bool(v.isfinite().all()) for v in update.values.values()):
        return "the clients' training diverged: the update holds NaN or infinite values"
    if not update.values:
        return "no gradient reaches a parameter that is trained, so the clients send nothing"
    return "the update is exactly 0: there is nothing to invert" if update.norm() == 0 else None


def _record(
    scenario: Scenario,
    task: Task,
    rebuilt: Reconstruction,
    private: Batch,
    guesses: list[Baseline],
    hard: float | None,
) -> Trial:
    judged = judge(scenario, rebuilt, private, guesses, hard)
    cut = [UNCHECKED.format("what is recognisable was")] if judged.cut else []
    confidence = [] if rebuilt.confidence is None else [float(c) for c in rebuilt.confidence]
    return blank(scenario, task).model_copy(
        update={
            "iterations": max(0, len(rebuilt.objective) - 1),
            "objective": thinned(rebuilt.objective),
            "converged": rebuilt.converged,
            "labels": judged.labels,
            "scores": judged.scores,
            "leaked": judged.leaked,
            "recognisable": judged.recognisable,
            "leakage_rate": judged.leakage_rate,
            "identification": judged.identification,
            "baselines": guesses,
            "confidence": confidence,
            "matched": judged.matched,
            "notes": [*rebuilt.notes, *cut],
        }
    )


def thinned(values: tuple[float, ...]) -> list[tuple[int, float]]:
    """At most `CURVE_POINTS` points of a curve, the first and the last among them; a diverged end is left out."""
    marks = range(len(values))
    if len(values) > CURVE_POINTS:
        marks = torch.linspace(0, len(values) - 1, CURVE_POINTS, dtype=torch.float64).round().long().tolist()
    return [(i, values[i]) for i in marks if math.isfinite(values[i])]
