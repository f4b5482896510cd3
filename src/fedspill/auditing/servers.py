"""What the servers of an audit send: one model per world and seed, made once, whatever number of updates it gets."""

from dataclasses import dataclass, field, replace

from fedspill.auditing.resolving.components import Chosen
from fedspill.auditing.resolving.scenario import Scenario
from fedspill.auditing.watch import TrialWatch
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, Tampering


@dataclass(frozen=True)
class Sent:
    """What a server sends and who reads the answers.

    Attributes:
        added: parameters that the model has more than the plan's.
    """

    model: Model
    attack: Attack
    added: int


@dataclass
class Servers:
    """The servers of the world that is being run; a tampering may train what it plants, so it is asked once."""

    scenario: Scenario
    _world: str = ""
    _sent: dict[int, Sent] = field(default_factory=dict[int, Sent])

    def sent(self, world: Chosen, seed: int, watch: TrialWatch) -> Sent:
        """What this world's server sends.

        Raises:
            NotApplicable: the tampering does not fit.
        """
        if world.label != self._world:
            self._world, self._sent = world.label, {}
        if seed not in self._sent:
            self._sent[seed] = self._make(world, seed, watch)
        return self._sent[seed]

    def _make(self, world: Chosen, seed: int, watch: TrialWatch) -> Sent:
        scenario, component = self.scenario, world.component
        model, public = scenario.model, scenario.granted_public
        if isinstance(component, Tampering):
            server_watch = _server_watch(watch)
            tampered = component.tamper(model, public, 0, stream(seed, "server", world.name), server_watch)
            assert tampered.readout is not None, "components.choose() takes only tamperings that bring a readout"
            if server_watch.checkpoint is not None:
                server_watch.checkpoint.unlink(missing_ok=True)
            return Sent(tampered.model, tampered.readout, _size(tampered.model) - _size(model))
        if scenario.tampering is not None:
            model = scenario.tampering.component.tamper(
                model, public, 0, stream(seed, "server"), _server_watch(watch)
            ).model
        return Sent(model, component, _size(model) - _size(scenario.model))


def _server_watch(watch: TrialWatch) -> TrialWatch:
    """A watch over what happens before anything is sent; its state is not the attack's."""
    kept = watch.checkpoint
    return replace(watch, checkpoint=None if kept is None else kept.with_name(f"server.{kept.name}"))


def _size(model: Model) -> int:
    return sum(p.numel() for p in model.params.values())
