"""What `fedspill list` shows, without importing what it speaks of.

The rows stand in `listing.json`, each group with a digest of the sources that it was made from (`make docs` makes it
again). Where a source has changed since, or a package from outside adds a component, they are made anew.
"""

import hashlib
import json
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("listing.json")
PACKAGE = Path(__file__).parents[1]
FOLDERS = {"attacks": "attacks", "tamperings": "tamperings", "defences": "defences", "checks": "guard"}
SOURCES = {
    **{what: (f"{folder}/*.py",) for what, folder in FOLDERS.items()},
    "models": ("zoo/networks/*.py", "zoo/models/by_name.py", "zoo/models/options.py"),
    "data": ("zoo/data/by_name.py",),
}
"""The files whose digest tells whether the rows of a group are still true."""

Rows = tuple[list[str], list[list[str]]]
"""Headings, and the cells of each row."""


def rows(what: str) -> Rows:
    """The table of a group: attacks, tamperings, defences, checks, models or data."""
    kept = _kept().get(what)
    outside = bool(entry_points(group=f"fedspill.{what}"))
    if kept is None or kept["sources"] != digest(what) or outside:
        return made(what)
    return kept["headings"], kept["rows"]


def made(what: str) -> Rows:
    """The same from what it speaks of."""
    from fedspill import catalogue
    from fedspill.zoo import data, models

    if what == "models":
        return ["name", "what it is", "options"], [[e.name, e.summary, e.options] for e in models.listing()]
    if what == "data":
        headings = ["name", "what it is", "splits", "keys"]
        return headings, [[e.name, e.summary, ", ".join(e.splits), ", ".join(e.keys) or "-"] for e in data.listing()]
    cards: dict[str, Any] = getattr(catalogue, what)()
    return ["name", "what it does"], [[name, _about(what, card)] for name, card in cards.items()]


def written() -> str:
    """What `listing.json` must hold."""
    table = dict[str, Any]()
    for what in SOURCES:
        headings, cells = made(what)
        table[what] = {"sources": digest(what), "headings": headings, "rows": cells}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def digest(what: str) -> str:
    """Of the sources of a group, by their names and contents."""
    seen = hashlib.sha256()
    for pattern in SOURCES[what]:
        for path in sorted(PACKAGE.glob(pattern)):
            seen.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return seen.hexdigest()


def _kept() -> dict[str, Any]:
    try:
        return json.loads(FILE.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _about(what: str, card: Any) -> str:
    """In lines that a terminal of 80 columns has room for."""
    facts = {"presets": ", ".join(card.presets)}
    if what in ("attacks", "tamperings"):
        facts |= {"server": card.role.value, "needs": ", ".join(sorted(k.value for k in card.needs)) or "no grant"}
    if card.origin:
        facts["from"] = card.origin
    return "\n".join([card.summary, *(f"{key}: {value}" for key, value in facts.items()), card.paper])
