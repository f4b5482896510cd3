"""The global model of every round, measured as rounds are run, and kept beside the trials: a kill loses none of it."""

from dataclasses import dataclass, field

from fedspill.auditing.feeding import MOST_MEASURED
from fedspill.auditing.feeding.answers import answers, loss_of, measured_mode, takes_batch_statistics
from fedspill.auditing.resolving.components import Chosen
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.core.model import Model
from fedspill.core.roles import Tampering
from fedspill.core.tensor_files import sha256
from fedspill.core.types import Batch
from fedspill.federation.rounds import Round
from fedspill.report.schema import RoundRecord
from fedspill.report.store import Store


@dataclass
class Ledger:
    """What was measured, world by world, under the first seed.

    Attributes:
        store: where it is kept; None keeps it in memory.
    """

    scenario: Scenario
    store: Store | None = None
    _held: dict[str, list[RoundRecord]] = field(default_factory=dict[str, list[RoundRecord]])

    def of(self, world: Chosen) -> list[RoundRecord] | None:
        """The rounds of a world as they were measured; None if they were not."""
        name = _file_name(world)
        if name not in self._held and self.store is not None:
            kept, rounds = self.store.measured(name), self.scenario.rounds
            if kept is not None and rounds is not None and [r.number for r in kept] == list(range(rounds.count)):
                self._held[name] = kept
        return self._held.get(name)

    def page(self, world: Chosen, seed: int) -> "Page | None":
        """Where the rounds of a world are entered; None if they need not be."""
        return Page(self, world) if seed == self.scenario.seeds[0] and self.of(world) is None else None

    def keep(self, world: Chosen, rounds: list[RoundRecord]) -> None:
        """All rounds of a world."""
        name = _file_name(world)
        self._held[name] = rounds
        if self.store is not None:
            self.store.keep_measured(name, rounds)


@dataclass
class Page:
    """The rounds of one world while they are run."""

    ledger: Ledger
    world: Chosen
    rounds: list[RoundRecord] = field(default_factory=list[RoundRecord])

    def enter(self, before: Model, done: Round) -> None:
        """Measures the server's own model as it was before a round."""
        scenario = self.ledger.scenario
        assert scenario.rounds is not None, "there is a page only of a federation"
        federation, examples = scenario.rounds.federation, _examples(scenario)
        accuracy, loss = measured(before, examples) if scenario.pool.has_labels else (None, None)
        clients = federation.asked(done.number)
        self.rounds.append(
            RoundRecord(
                number=done.number,
                world=altering(self.world),
                clients=clients,
                examples=sum(federation.sizes[k] for k in clients),
                n=len(examples),
                accuracy=accuracy,
                loss=loss,
                batch_statistics=takes_batch_statistics(before),
            )
        )

    def close(self) -> None:
        """All rounds are entered."""
        self.ledger.keep(self.world, self.rounds)


def altering(world: Chosen) -> str | None:
    """The name of a world whose server alters the model for its own readout; None of all others, which share one."""
    return world.label if isinstance(world.component, Tampering) else None


def measured(model: Model, examples: Batch) -> tuple[float | None, float | None]:
    """Accuracy and loss, in `measured_mode`; None where there is none, or the model's numbers are not finite."""
    if not all(bool(v.isfinite().all()) for v in model.params.values()):
        return None, None
    said = answers(model, examples)
    loss = loss_of(measured_mode(model), examples) if said is None else said.loss
    return None if said is None else said.accuracy, loss if abs(loss) < float("inf") else None


def _examples(scenario: Scenario) -> Batch:
    """Private examples of all clients, or so many from all over them."""
    assert scenario.rounds is not None, "asked only of a federation"
    places = [place for held in scenario.rounds.held for place in held]
    return scenario.pool.batch[places[:: -(-len(places) // MOST_MEASURED)]]


def _file_name(world: Chosen) -> str:
    label = altering(world)
    return "plain" if label is None else f"altered-{sha256(label)[:16]}"
