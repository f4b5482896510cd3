"""Every component that the package ships, found by listing its folder."""

import importlib
import pkgutil
from types import ModuleType
from typing import Any

from fedspill import attacks as _attacks
from fedspill import defences as _defences
from fedspill import guard as _guard
from fedspill import tamperings as _tamperings
from fedspill.core.errors import BadInput
from fedspill.core.roles import Attack, Card, Check, Defence, Tampering


def _cards(folder: ModuleType) -> dict[str, Card[Any]]:
    """File name to the file's CARD; a file without one is an error, not a skip."""
    names = sorted(m.name for m in pkgutil.iter_modules(folder.__path__))
    return {n: importlib.import_module(f"{folder.__name__}.{n}").CARD for n in names}


def attacks() -> dict[str, Card[Attack]]:
    """Attacks on an honest or a tampered model."""
    return _cards(_attacks)


def tamperings() -> dict[str, Card[Tampering]]:
    """Malicious servers."""
    return _cards(_tamperings)


def defences() -> dict[str, Card[Defence]]:
    """Defences of a client."""
    return _cards(_defences)


def checks() -> dict[str, Card[Check]]:
    """Checks of an incoming model."""
    return _cards(_guard)


def pick(cards: dict[str, Card[Any]], entry: str, what: str) -> tuple[str, str, Card[Any]]:
    """Name, preset and card of an entry "name" or "name:preset".

    Raises:
        BadInput: no such name or preset.
    """
    name, _, preset = entry.partition(":")
    if name not in cards:
        raise BadInput(f"unknown {what} {name!r}; there are {', '.join(sorted(cards))}")
    card = cards[name]
    preset = preset or "paper"
    if preset not in card.presets:
        raise BadInput(f"{what} {name!r} has no preset {preset!r}; it has {', '.join(card.presets)}")
    return name, preset, card
