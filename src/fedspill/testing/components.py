"""The components that contracts are about: one of a module, or all of the catalogue."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from fedspill import catalogue
from fedspill.core.errors import BadInput
from fedspill.core.roles import Attack, Card, Check, Defence, Tampering

Role = Literal["attack", "tampering", "defence", "check"]
ROLES: dict[Role, type] = {"attack": Attack, "tampering": Tampering, "defence": Defence, "check": Check}


@dataclass(frozen=True)
class Component:
    """A card with its name and role.

    Attributes:
        name: as a plan would call it.
    """

    name: str
    role: Role
    card: Card[Any]

    @property
    def reads(self) -> bool:
        """Whether it gives reconstructions: an attack, or a tampering that brings its own."""
        return self.role == "attack" or (self.role == "tampering" and self.card.reads)

    def fits(self, *roles: str) -> bool:
        """Whether it is of one of these roles; "reads" is that of whatever gives reconstructions."""
        return self.role in roles or ("reads" in roles and self.reads)


def component_of(name: str) -> Component:
    """The component of "package.module" (its CARD) or "package.module:NAME".

    Raises:
        BadInput: there is no such module or card, or its presets keep none of the protocols.
    """
    module, _, attribute = name.partition(":")
    try:
        loaded = getattr(import_module(module), attribute or "CARD")
    except ImportError as error:
        raise BadInput(f"{module!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise BadInput(f"{module!r} has no {attribute or 'CARD'}") from error
    if not isinstance(loaded, Card):
        raise BadInput(f"{name!r} is a {type(loaded).__name__}; a fedspill.core.roles.Card is needed")
    for role, protocol in ROLES.items():
        if loaded.presets and all(isinstance(preset, protocol) for preset in loaded.presets.values()):
            return Component(module.rpartition(".")[2], role, catalogue.card_of(loaded, protocol))
    raise BadInput(f"the presets of {name!r} are no attacks, tamperings, defences or checks: see fedspill.core.roles")


def every_component() -> list[Component]:
    """Fedspill's own, and those of installed packages."""
    listed: dict[Role, Mapping[str, Card[Any]]] = {
        "attack": catalogue.attacks(),
        "tampering": catalogue.tamperings(),
        "defence": catalogue.defences(),
        "check": catalogue.checks(),
    }
    return [Component(name, role, card) for role, cards in listed.items() for name, card in cards.items()]
