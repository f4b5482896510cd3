"""What the servers of an audit send: one model per world and seed, made once, whatever number of updates it gets."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from fedspill.auditing.by_round.ledger import Ledger
from fedspill.auditing.isolated import OnIsolated
from fedspill.auditing.resolving.components import Chosen
from fedspill.auditing.resolving.rounds import Observation, Rounds
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.watch import TrialWatch
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import Knows, ServerKnowledge
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, ForClient, ForClients, Isolates, Tampered, Tampering
from fedspill.core.types import Batch, Update
from fedspill.federation.rounds import Federation, Round, seen_by_client, weighted
from fedspill.federation.threat import observe

MOST_HELD = 1 << 29
"""Bytes of clients' answers that are kept for the next attack."""


@dataclass(frozen=True)
class Sent:
    """What a server sends and who reads the answers.

    Attributes:
        added: parameters that the model has more than the plan's.
        tampered: as a tampering made it; None where nothing was altered.
    """

    model: Model
    attack: Attack
    added: int
    tampered: Tampered | None = None

    @property
    def for_client(self) -> ForClient | None:
        """What the client of this number receives; None: all receive `model`."""
        return None if self.tampered is None else self.tampered.for_client

    def as_sent(self) -> Tampered:
        """As a federation sends it."""
        return self.tampered or Tampered(self.model)

    def sent_to(self, client: int) -> Model:
        """What one client receives."""
        return self.as_sent().sent_to(client)


@dataclass(frozen=True)
class Seen:
    """What of one round an attacker holds.

    Attributes:
        update: None if nothing arrived.
        private: the examples behind it.
        sizes: of the clients behind it.
        training: theirs, with their draws.
        again: what an attack that knows all computes, to be compared with what came without defences.
    """

    sent: Sent
    update: Update | None
    private: Batch
    sizes: tuple[int, ...]
    training: LocalTraining
    again: Callable[[], tuple[Update, Update]]


@dataclass
class Servers:
    """The servers of the world that is being run; a tampering may train what it plants, so it is asked once.

    Attributes:
        ledger: that the rounds of a federation are measured for; None measures none.
    """

    scenario: Scenario
    ledger: Ledger | None = None
    _world: str = ""
    _sent: dict[tuple[int, int], Sent] = field(default_factory=dict[tuple[int, int], Sent])
    _rounds: dict[int, dict[int, Round]] = field(default_factory=dict[int, dict[int, Round]])
    _next: dict[int, Tampering] = field(default_factory=dict[int, Tampering])
    _known: dict[tuple[str, int, int], tuple[Any, float]] = field(
        default_factory=dict[tuple[str, int, int], tuple[Any, float]]
    )
    _held: int = 0

    def sent(self, world: Chosen, seed: int, watch: TrialWatch) -> Sent:
        """What this world's server sends in the first round.

        Raises:
            NotApplicable: the tampering does not fit.
        """
        return self._asked(world, seed, 0, self.scenario.model, watch)

    def seen(self, world: Chosen, seed: int, update: int, watch: TrialWatch) -> Seen:
        """What is attacked of the federation; its rounds are run once.

        Raises:
            NotApplicable: the tampering does not fit.
        """
        rounds = self.scenario.rounds
        assert rounds is not None, "asked only of a federation"
        observation, federation = rounds.observations[update], rounds.federation
        done = self._run(world, seed, rounds, watch)[observation.round]
        clients, number = observation.clients, observation.round
        private = self.scenario.private(update)

        def again() -> tuple[Update, Update]:
            sizes, given = federation.sizes, {k: done.sent_to(k) for k in clients}
            answers = [(sizes[k], federation.bare(given[k], k, number, seed)) for k in clients]
            computed = [(sizes[k], federation.recomputed(given[k], [k], number, seed)) for k in clients]
            return weighted(answers), weighted(computed)

        return Seen(
            self._sent[seed, number],
            _observed(observation, done, federation),
            private,
            tuple(federation.sizes[k] for k in clients),
            federation.training_of(clients, number, seed),
            again,
        )

    def answer(
        self, sent: Model, update: int, seed: int, compute: Callable[[], Update | None]
    ) -> tuple[Update | None, float]:
        """What the clients send, and the seconds that it took: computed once for all attacks on the honest model."""
        return self._once(("answer", update, seed), sent, compute)

    def check(
        self, sent: Model, update: int, seed: int, compute: Callable[[], tuple[float, float] | None]
    ) -> tuple[float, float] | None:
        """The self-check of an update, likewise."""
        return self._once(("check", update, seed), sent, compute)[0]

    def _once(self, key: tuple[str, int, int], sent: Model, compute: Callable[[], Any]) -> tuple[Any, float]:
        if sent is not self.scenario.model or self.scenario.rounds is not None:
            return _timed(compute)
        if key not in self._known:
            known = _timed(compute)
            self._held += _bytes(known[0])
            if self._held > MOST_HELD:
                self._known, self._held = {}, _bytes(known[0])
            self._known[key] = known
        return self._known[key]

    def walk(self, world: Chosen, seed: int, watch: TrialWatch) -> None:
        """Runs a world's rounds for the ledger alone.

        Raises:
            NotApplicable: the tampering does not fit.
        """
        assert self.scenario.rounds is not None, "asked only of a federation"
        self._run(world, seed, self.scenario.rounds, watch)

    def history(self, seed: int) -> list[Round]:
        """The rounds that were observed in the world that is being run."""
        return list(self._rounds.get(seed, {}).values())

    def _run(self, world: Chosen, seed: int, rounds: Rounds, watch: TrialWatch) -> dict[int, Round]:
        self._turn_to(world)
        if seed not in self._rounds:
            wanted = {o.round for o in rounds.observations}
            run = rounds.federation.rounds(
                self.scenario.model,
                rounds.count,
                seed,
                lambda model, number: self._asked(world, seed, number, model, watch).as_sent(),
            )
            kept, before = dict[int, Round](), self.scenario.model
            book = None if self.ledger is None else self.ledger.page(world, seed)
            for done in run:
                if book is not None:
                    book.enter(before, done)
                before = done.after
                self._learn(rounds, done, seed)
                if done.number in wanted:
                    kept[done.number] = done
                else:
                    self._sent.pop((seed, done.number), None)
            if book is not None:
                book.close()
            self._rounds[seed] = kept
        return self._rounds[seed]

    def _turn_to(self, world: Chosen) -> None:
        if world.label != self._world:
            self._world, self._sent, self._rounds, self._next = world.label, {}, {}, {}

    def _learn(self, rounds: Rounds, done: Round, seed: int) -> None:
        """A tampering that goes by what a round showed is told of it."""
        tampered = self._sent[seed, done.number].tampered
        if tampered is None or tampered.goes_on is None or done.mean is None:
            return
        knowledge = self._of_mean(rounds.federation, done, seed)
        with suppress(NotApplicable):  # what cannot be read changes nothing
            self._next[seed] = tampered.goes_on(done.mean, knowledge)

    def _of_mean(self, federation: Federation, done: Round, seed: int) -> ServerKnowledge:
        """What the server knows of a round's mean update."""
        scenario, clients = self.scenario, list(done.answers)
        batches = [federation.private[k] for k in clients]
        return observe(
            done.sent,
            Batch(torch.cat([b.inputs for b in batches]), torch.cat([b.labels for b in batches])),
            len(clients),
            federation.training_of(clients, done.number, seed),
            scenario.public_batch,
            scenario.knows - {Knows.BN_STATISTICS},
            sizes=tuple(federation.sizes[k] for k in clients),
            defence=scenario.known_defence(done.sent),
        )

    def _asked(self, world: Chosen, seed: int, number: int, model: Model, watch: TrialWatch) -> Sent:
        self._turn_to(world)
        if (seed, number) not in self._sent:
            self._sent[seed, number] = self._make(world, seed, number, model, watch)
        return self._sent[seed, number]

    def _make(self, world: Chosen, seed: int, number: int, model: Model, watch: TrialWatch) -> Sent:
        scenario, component = self.scenario, world.component
        public, size = scenario.granted_public, _size(model)
        if isinstance(component, Tampering):
            server_watch = _server_watch(watch)
            asked = self._told(self._next.get(seed, component), number)
            tampered = asked.tamper(model, public, number, stream(seed, "server", world.name), server_watch)
            assert tampered.readout is not None, "components.choose() takes only tamperings that bring a readout"
            if server_watch.checkpoint is not None:
                server_watch.checkpoint.unlink(missing_ok=True)
            return Sent(tampered.model, tampered.readout, _size(tampered.model) - size, tampered)
        if scenario.tampering is None:
            return Sent(model, component, 0)
        asked = self._told(self._next.get(seed, scenario.tampering.component), number)
        tampered = asked.tamper(model, public, number, stream(seed, "server"), _server_watch(watch))
        _same_for_all(tampered, scenario.tampering.label)
        attack = OnIsolated(component, tampered.readout) if isinstance(tampered.readout, Isolates) else component
        return Sent(tampered.model, attack, _size(tampered.model) - size, tampered)

    def _told(self, tampering: Tampering, number: int) -> Tampering:
        """The tampering as one that knows whom the server asks, if it wants to."""
        if not isinstance(tampering, ForClients):
            return tampering
        rounds = self.scenario.rounds
        asked = range(self.scenario.clients.count) if rounds is None else rounds.federation.asked(number)
        return tampering.for_clients(tuple(asked))


def _same_for_all(tampered: Tampered, label: str) -> None:
    """Refuses different models where attacks are run that take the clients' models for one."""
    if tampered.for_client is not None:
        raise BadInput(
            f"server.tampering = {label!r} sends every client another model, which the plan's attacks would take for"
            " one; name it in audit.attacks, where its own readout is used"
        )


def _observed(observation: Observation, done: Round, federation: Federation) -> Update | None:
    if observation.by_client is not None:
        return seen_by_client(done, observation.by_client, federation.sizes) if done.answers else None
    return done.answers.get(observation.clients[0]) if len(observation.clients) == 1 else done.mean


def _server_watch(watch: TrialWatch) -> TrialWatch:
    """A watch over what happens before anything is sent; its state is not the attack's."""
    kept = watch.checkpoint
    return replace(watch, checkpoint=None if kept is None else kept.with_name(f"server.{kept.name}"))


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return compute(), time.monotonic() - began


def _bytes(value: Any) -> int:
    return sum(v.numel() * v.element_size() for v in value.values.values()) if isinstance(value, Update) else 0


def _size(model: Model) -> int:
    return sum(p.numel() for p in model.params.values())
