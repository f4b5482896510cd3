"""fedspill's side of `matching`: an attack of the catalogue as users run it, watched."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.common.clock import Probe, Snapshot
from benchmarks.matching.world import World
from fedspill.attacks.inverting_gradients import CARD, InvertingGradients
from fedspill.core.errors import BadInput
from fedspill.core.rng import stream
from fedspill.core.roles import State, Unwatched
from fedspill.core.settings import field_names, flat_fields, plain_fields, with_fields
from fedspill.plan.values import set_fields


@dataclass(frozen=True)
class Preset:
    """A preset with changes, under the name that results are kept by."""

    name: str
    attack: InvertingGradients

    def settings(self) -> dict[str, Any]:
        """All fields of the attack."""
        return plain_fields(self.attack)

    def of(self, **changes: Any) -> "Preset":
        """Under the same name, with the fields changed that the attack has."""
        known = flat_fields(self.attack)
        return Preset(self.name, with_fields(self.attack, **{k: v for k, v in changes.items() if k in known}))


def presets(names: str, changes: list[str]) -> list[Preset]:
    """From names parted by commas and FIELD=VALUE pairs that hold for all of them.

    Raises:
        BadInput: no such preset or field.
    """
    for name in names.split(","):
        if name not in CARD.presets:
            raise BadInput(f"no preset {name!r}; there are {', '.join(CARD.presets)}")
    given = set_fields(changes)
    known = set(field_names(InvertingGradients))
    if unknown := sorted(given.keys() - known):
        raise BadInput(f"the attack has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return [_preset(name, given) for name in names.split(",")]


def _preset(name: str, given: dict[str, Any]) -> Preset:
    attack = CARD.presets[name]
    assert isinstance(attack, InvertingGradients)
    # TOML tells 1 from 1.0, the fields do not.
    usual = flat_fields(attack)
    whole = {k: float(v) if isinstance(usual[k], float) else v for k, v in given.items()}
    label = "+".join([name, *(f"{k}={v}" for k, v in given.items())])
    return Preset(label, with_fields(attack, **whole))


@dataclass
class Watched(Unwatched):
    """Tells a probe what the attack tells its watch."""

    probe: Probe
    done: int = 0

    def progress(self, done: int, total: int, objective: float) -> None:
        """Counts."""
        self.done = done
        self.probe.tick(done)

    def save(self, state: Callable[[], State], *, last: bool = False) -> None:
        """Shows the state that the attack would keep, and keeps nothing."""
        if self.probe.scoring:
            self.probe.seen(self.done, lambda: _snapshot(state()))


def _snapshot(state: State) -> Snapshot:
    """Of the state of `fedspill.inversion.search.sequential.Search`."""
    return Snapshot(state["best"][0], state["variables"][0], state["best_value"])


def fedspill_run(given: World, attack: InvertingGradients, probe: Probe, seed: int) -> None:
    """One attack; `seed` draws its starts."""
    watch = Watched(probe)
    probe.start()
    found = attack.reconstruct(given.update, given.knowledge(), stream(seed, "matching"), watch)
    probe.end(watch.done, found.inputs, min(found.objective))
