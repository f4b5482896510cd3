"""Every component by name: the files of fedspill's own folders, and entry points of packages that are installed.

A package adds a component by an entry point in the group `fedspill.attacks`, `fedspill.tamperings`, `fedspill.defences`
or `fedspill.checks` that leads to a module with a `CARD`, or to the card itself ("my_package.my_attack:CARD"). One that
is broken is named in a warning of one line and left out.
"""

import importlib
import pkgutil
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, TypeVar

from fedspill.core.errors import BadInput
from fedspill.core.roles import Attack, Card, Check, Defence, Tampering

R = TypeVar("R", Attack, Tampering, Defence, Check)


class BrokenPlugin(UserWarning):
    """A component of an installed package cannot be used."""


class Cards(Mapping[str, Card[R]]):
    """Name to card; the file of one of fedspill's own is imported when its card is looked at."""

    def __init__(self, package: str, outside: Mapping[str, Card[R]]) -> None:
        self._package, self._outside = package, outside

    def __getitem__(self, name: str) -> Card[R]:
        if name in self._outside:
            return self._outside[name]
        if name not in _own(self._package):
            raise KeyError(name)
        card: Card[R] = importlib.import_module(f"{self._package}.{name}").CARD
        return card

    def __contains__(self, name: object) -> bool:
        return name in self._outside or name in _own(self._package)

    def __iter__(self) -> Iterator[str]:
        yield from _own(self._package)
        yield from self._outside

    def __len__(self) -> int:
        return len(_own(self._package)) + len(self._outside)


def attacks() -> Cards[Attack]:
    """Attacks on an honest or a tampered model.

    Example:
        >>> import fedspill
        >>> "inverting_gradients" in fedspill.attacks()
        True
    """
    return Cards("fedspill.attacks", _outside("attacks", "fedspill.attacks", Attack))


def tamperings() -> Cards[Tampering]:
    """Malicious servers.

    Example:
        >>> import fedspill
        >>> fedspill.tamperings()["robbing_the_fed"].title
        'Robbing the Fed'
    """
    return Cards("fedspill.tamperings", _outside("tamperings", "fedspill.tamperings", Tampering))


def defences() -> Cards[Defence]:
    """Defences of a client.

    Example:
        >>> import fedspill
        >>> sorted(fedspill.defences())[:2]
        ['clipping', 'dp_sgd']
    """
    return Cards("fedspill.defences", _outside("defences", "fedspill.defences", Defence))


def checks() -> Cards[Check]:
    """Checks of an incoming model.

    Example:
        >>> import fedspill
        >>> "weight_entropy" in fedspill.checks()
        True
    """
    return Cards("fedspill.guard", _outside("checks", "fedspill.guard", Check))


def pick(cards: Mapping[str, Card[Any]], entry: str, what: str) -> tuple[str, str, Card[Any]]:
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


@cache
def _own(package: str) -> tuple[str, ...]:
    """The names of the files of a folder; each must hold a CARD."""
    folder = importlib.import_module(package)
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder.__path__)))


@cache
def _outside(kind: str, package: str, role: type) -> dict[str, Card[Any]]:
    cards = dict[str, Card[Any]]()
    for point in sorted(entry_points(group=f"fedspill.{kind}"), key=lambda p: p.name):
        if point.name in _own(package) or point.name in cards:
            _left_out(point, "its name is taken")
            continue
        try:
            cards[point.name] = card_of(point.load(), role, _origin(point))
        except Exception as error:  # whatever code of anyone's raises must not break a command
            _left_out(point, f"{type(error).__name__}: {error}".splitlines()[0][:200])
        except SystemExit:
            _left_out(point, "it ends the program when it is imported")
    return cards


def card_of(loaded: ModuleType | Card[Any], role: type, origin: str = "") -> Card[Any]:
    """The card that a module holds, or that was given itself; checked as far as a look at it can tell.

    Args:
        role: the protocol that its presets must keep: Attack, Tampering, Defence or Check.
        origin: where it comes from.

    Raises:
        BadInput: it is no card, has no preset "paper", or one that does not keep the protocol.
    """
    card = getattr(loaded, "CARD", None) if isinstance(loaded, ModuleType) else loaded
    if not isinstance(card, Card):
        raise BadInput(f"a fedspill.core.roles.Card named CARD is needed, got {type(card).__name__}")
    if "paper" not in card.presets:
        raise BadInput(f"a preset 'paper' is needed, got {list(card.presets)}")
    wrong = [name for name, preset in card.presets.items() if not isinstance(preset, role)]
    if wrong:
        raise BadInput(f"preset {wrong[0]!r} is no {role.__name__}: it is a {type(card.presets[wrong[0]]).__name__}")
    return replace(card, origin=origin)


def _origin(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


def _left_out(point: EntryPoint, why: str) -> None:
    text = f"{point.group.removeprefix('fedspill.')} {point.name!r} of {_origin(point)} is left out: {why}"
    warnings.warn(text, BrokenPlugin, stacklevel=2)
