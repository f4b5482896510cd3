"""What the catalogue plants, and in which hosts; every plant with each hiding trick in one host of each half."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from benchmarks.vetting import hiding, honest
from benchmarks.vetting.worlds import public
from fedspill import catalogue
from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.roles import Attack, ForClients, Tampering
from fedspill.inversion.bilevel.search import OuterSearch
from fedspill.tamperings.optimised_parameters import OptimisedParameters
from fedspill.tamperings.robbing_the_fed import RobbingTheFed

PICTURES = {"A": ("lenet", "trained"), "B": ("cnn", "trained")}
"""Hosts of tamperings that want convolutions."""
ROWS = {"A": ("mlp 192", "default #0"), "B": ("mlp 128-64", "default #0")}
"""Hosts of tamperings that want a fully connected layer."""
EITHER = {"A": ("convnet 16", "trained"), "B": ("mlp 128-64", "default #0")}
"""Hosts of all others."""
HEADS = {"A": ("mlp 192", "default #0"), "B": ("strided_cnn", "default #0")}
"""Hosts of what wants two fully connected layers, behind convolutions where there are any."""
WANT_PICTURES = ("loki", "identity_convolutions", "reversible_blocks", "maui", "optimised_parameters")
WANT_ROWS = ("robbing_linear_layer", "trap_weights")
FURTHER = (("mlp 128-64", "trained"), ("cnn", "default #0"), ("resnet20", "trained"))
"""Further hosts of the plants as they are, in the presets that are hidden."""
HIDDEN = {"A": ("paper", "soliton", "smallest"), "B": ("strong", "quick", "smallest")}
"""Presets that are hidden, by half; of one with a single preset that one in both."""
SMALLEST: dict[str, Tampering] = {
    "optimised_parameters:smallest": OptimisedParameters(
        OuterSearch(steps=4, images=1, held_out=2, judge_every=2), inner_steps=2
    )
}
"""In place of presets that train for hours."""
LEFT_OUT = (
    "maui:paper",
    "maui:strong",
    "scale_mia:paper",
    "optimised_parameters:paper",
    "optimised_parameters:quick",
    "optimised_parameters:strong",
)
"""Their weights take hours to make."""
DEEPER = {"cnn": "head", "strided_cnn": "head"}
"""Layers before which an imprint stands deeper."""


@dataclass(frozen=True)
class Plant:
    """A tampering in a host, hidden or not.

    Attributes:
        made: how the host's numbers came about.
        entry: name and preset of the tampering.
        trick: of `hiding`; "plain" is none.
    """

    network: str
    made: str
    entry: str
    trick: str

    @property
    def name(self) -> str:
        """Of the record."""
        return f"planted/{self.network}/{self.made}/{self.entry}/{self.trick}"

    @property
    def host(self) -> Model:
        """The network as it was agreed on."""
        return honest.made(self.network, self.made)[0]

    def sent(self) -> tuple[Model, Attack | None, Model | None]:
        """The model that the client receives, what reads its answer, and the round before of a dormant one.

        Raises:
            NotApplicable: the tampering does not fit the host.
        """
        tampering = own_tricks(self.network, self.entry).get(self.trick, entries()[self.entry])
        dormant = self.trick == hiding.DORMANT
        model, readout = planted(self.network, self.made, tampering, hiding.ROUND if dormant else 0)
        if dormant:
            before, _ = (
                planted(self.network, self.made, tampering, hiding.ROUND - 1) if self._waits() else (self.host, None)
            )
            return model, readout, before
        if self.trick not in hiding.ANY:
            return model, readout, None
        if not hiding.applies(self.trick, model, self.host):
            raise NotApplicable("there are no rows for this trick")
        return hiding.hidden(self.trick, model, self.host), readout, None

    def _waits(self) -> bool:
        """Whether the tampering itself knows how to wait."""
        return hiding.DORMANT in own_tricks(self.network, self.entry)


def planted(network: str, made: str, tampering: Tampering, turn: int) -> tuple[Model, Attack | None]:
    """What client 0 receives in a round.

    Raises:
        NotApplicable: the tampering does not fit the host.
    """
    asked = tampering.for_clients((0,)) if isinstance(tampering, ForClients) else tampering
    done = asked.tamper(honest.made(network, made)[0], public(), turn, stream(0, "server"))
    return done.sent_to(0), done.readout


@cache
def entries() -> dict[str, Tampering]:
    """Every preset of the catalogue that needs no long training; of equal ones the first."""
    found = dict[str, Tampering]()
    for name, card in catalogue.tamperings().items():
        for preset, tampering in card.presets.items():
            if f"{name}:{preset}" not in LEFT_OUT and tampering not in [
                v for k, v in found.items() if k.startswith(name)
            ]:
                found[f"{name}:{preset}"] = tampering
    return found | SMALLEST


def own_tricks(network: str, entry: str) -> dict[str, Tampering]:
    """By trick the tampering that plays it by its own settings."""
    tampering = entries()[entry]
    tricks = hiding.own(tampering)
    if isinstance(tampering, RobbingTheFed) and network in DEEPER:
        tricks.append(hiding.deep(tampering, DEEPER[network]))
    return {own.name: own.tampering for own in tricks}


def cases() -> Iterator[Plant]:
    """Plants hidden in every way in one host of each half, and as they are in others; some may not fit after all."""
    for half in ("A", "B"):
        for entry in entries():
            name, _, preset = entry.partition(":")
            network, made = host_of(name)[half]
            hide = preset in HIDDEN[half] or f"{name}:strong" not in entries()
            tricks = ["plain", *_tricks(network, entry)] if hide else ["plain"]
            yield from (Plant(network, made, entry, trick) for trick in tricks)
    for (network, made), entry in itertools.product(FURTHER, entries()):
        if entry.endswith((":paper", ":strong")):
            yield Plant(network, made, entry, "plain")
        if "spread over layers" in own_tricks(network, entry):
            yield Plant(network, made, entry, "spread over layers")


def host_of(tampering: str) -> dict[str, tuple[str, str]]:
    """By half the host in which it is hidden."""
    if tampering == "scale_mia":
        return HEADS
    return PICTURES if tampering in WANT_PICTURES else ROWS if tampering in WANT_ROWS else EITHER


def _tricks(network: str, entry: str) -> list[str]:
    return list(dict.fromkeys([*hiding.ANY, hiding.DORMANT, *own_tricks(network, entry)]))
