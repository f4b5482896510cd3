"""What `fedspill list` shows, without importing what it speaks of.

It stands in `listing.json`, each group with a digest of the sources that it was made from (`make docs` makes it
again). Where a source has changed since, or a package from outside adds a component, it is made anew.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args, get_origin

from rich.box import HORIZONTALS
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from fedspill.core.errors import BadInput
from fedspill.rendering.html.plan_text import value_text

FILE = Path(__file__).with_name("listing.json")
PACKAGE = Path(__file__).parents[1]
FOLDERS = {"attacks": "attacks", "tamperings": "tamperings", "defences": "defences", "checks": "guard"}
SOURCES = {
    **{what: (f"{folder}/*.py", "rendering/headline/roles.py") for what, folder in FOLDERS.items()},
    "models": ("zoo/networks/*.py", "zoo/models/by_name.py", "zoo/models/options.py"),
    "data": ("zoo/data/by_name.py",),
}
"""The files whose digest tells whether a group is still true; those of its components' settings come to them."""
OF_PLANS = ("plan/sections.py", "plan/training.py")
"""Those of the keys of a plan."""
IN_A_PLAN = {
    "attacks": '[audit] attacks = ["{}"]',
    "tamperings": '[server] tampering = "{}"',
    "defences": '[[defences]] name = "{}"',
    "checks": "fedspill vet (every check looks at every model)",
}
MOST_PRESETS = 4
"""Presets that a line names."""

Rows = tuple[list[str], list[list[str]]]
"""Headings, and the cells of each row."""


@dataclass(frozen=True)
class Facts:
    """A component's card as JSON can hold it.

    Attributes:
        server: what its server must be willing to do; empty if no server is asked.
        serves: the same in plain words.
        presets: name to fields, as a plan writes them.
    """

    title: str
    paper: str
    summary: str
    server: str
    serves: str
    needs: list[str]
    accepts: list[str]
    iterative: bool
    reads: bool
    origin: str
    presets: dict[str, dict[str, Any]]


def show(what: str, name: str | None, console: Console) -> None:
    """Prints a group, or all that there is to say of one member of it.

    Raises:
        BadInput: the group has no such member.
    """
    shown = _one(what, name) if name is not None else _grouped(what) if what in FOLDERS else [_table(rows(what))]
    for part in shown:
        console.print(part)


def rows(what: str) -> Rows:
    """The table of a group of things that have no cards: models or data."""
    kept = _kept(what)
    return made_rows(what) if kept is None else (kept["headings"], kept["rows"])


def cards(what: str) -> dict[str, Facts]:
    """The cards of attacks, tamperings, defences or checks, by name."""
    kept = None if entry_points(group=f"fedspill.{what}") else _kept(what)
    return made_cards(what) if kept is None else {name: Facts(**facts) for name, facts in kept["cards"].items()}


def made_rows(what: str) -> Rows:
    """`rows` from what it speaks of."""
    from fedspill.zoo import data, models

    if what == "models":
        return ["name", "what it is", "options"], [[e.name, e.summary, e.options] for e in models.listing()]
    headings = ["name", "what it is", "splits", "keys"]
    return headings, [[e.name, e.summary, ", ".join(e.splits), ", ".join(e.keys) or "-"] for e in data.listing()]


def made_cards(what: str) -> dict[str, Facts]:
    """`cards` from what it speaks of."""
    return {name: _facts(what, card) for name, card in _cards(what).items()}


def plan_keys() -> dict[str, list[str]]:
    """The keys of each table of a plan that takes no others, by the table's name; "" is the plan itself."""
    kept = _kept("plan")
    return {} if kept is None else kept["keys"]


def made_plan_keys() -> dict[str, list[str]]:
    """`plan_keys` from the schema."""
    from fedspill.plan.sections import AuditPlan

    return dict(_keys_of(AuditPlan, ""))


def _keys_of(section: Any, where: str) -> Iterator[tuple[str, list[str]]]:
    if section.model_config.get("extra") == "forbid":
        yield where, list(section.model_fields)
    for name, field in section.model_fields.items():
        inner = next((k for k in (field.annotation, *get_args(field.annotation)) if hasattr(k, "model_fields")), None)
        if inner is not None and get_origin(field.annotation) not in (tuple, list):
            yield from _keys_of(inner, f"{where}.{name}".lstrip("."))


def _cards(what: str) -> Mapping[str, Any]:
    from fedspill import catalogue

    return getattr(catalogue, what)()


def _facts(what: str, card: Any) -> Facts:
    from fedspill.core.inputs import kind
    from fedspill.core.settings import plain_fields
    from fedspill.rendering.headline.roles import title_of

    asks = what in ("attacks", "tamperings")
    return Facts(
        title=card.title,
        paper=card.paper,
        summary=card.summary,
        server=card.role.value if asks else "",
        serves=title_of(card.role.value) if asks else "",
        needs=sorted(k.value for k in card.needs),
        accepts=sorted(map(kind, card.accepts)),
        iterative=card.iterative,
        reads=card.reads,
        origin=card.origin,
        presets={k: plain_fields(v) if is_dataclass(v) else {} for k, v in card.presets.items()},
    )


def written() -> str:
    """What `listing.json` must hold."""
    table = dict[str, Any]()
    for what in SOURCES:
        files = settings_of(_cards(what).values()) if what in FOLDERS else []
        table[what] = {"sources": digest(what, files), "files": files}
        if what in FOLDERS:
            table[what]["cards"] = {name: vars(facts) for name, facts in made_cards(what).items()}
        else:
            table[what]["headings"], table[what]["rows"] = made_rows(what)
    table["plan"] = {"sources": digest("plan"), "files": [], "keys": made_plan_keys()}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def settings_of(every: Iterable[Any]) -> list[str]:
    """The files of fedspill that hold the settings of these cards' presets, relative to the package."""
    waiting, seen = [preset for card in every for preset in card.presets.values()], set[type]()
    while waiting:
        settings = waiting.pop()
        if is_dataclass(settings):
            seen.update(kind for kind in type(settings).__mro__ if kind.__module__.startswith("fedspill."))
            waiting += [getattr(settings, field.name) for field in fields(settings)]
    found = {Path(inspect.getfile(sys.modules[kind.__module__])).resolve() for kind in seen}
    return sorted(file.relative_to(PACKAGE.resolve()).as_posix() for file in found)


def digest(what: str, files: Iterable[str] = ()) -> str:
    """Of the sources of a group and further files, by their names and contents."""
    seen = hashlib.sha256()
    patterns = OF_PLANS if what == "plan" else SOURCES[what]
    patterned = (path for pattern in patterns for path in PACKAGE.glob(pattern))
    for path in sorted({*patterned, *(PACKAGE / name for name in files)}):
        content = path.read_bytes() if path.is_file() else b""
        seen.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + content + b"\0")
    return seen.hexdigest()


def _kept(what: str) -> dict[str, Any] | None:
    """A group as the file has it; None if it has not, or no longer."""
    try:
        kept = json.loads(FILE.read_text(encoding="utf-8"))[what]
        return kept if kept["sources"] == digest(what, kept["files"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _table(table: Rows) -> Table:
    headings, cells = table
    drawn = Table(box=HORIZONTALS, header_style="bold", pad_edge=False)
    for heading in headings:
        drawn.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in cells:
        drawn.add_row(*map(Text, row), end_section=True)
    return drawn


def _grouped(what: str) -> list[RenderableType]:
    """Every member in two lines or three, under what its server must be willing to do."""
    every = cards(what)
    if what == "attacks":  # what a tampering plants it also reads, so that it stands among a plan's attacks
        every |= {name: facts for name, facts in cards("tamperings").items() if facts.reads}
    shown = list[RenderableType]()
    for server in dict.fromkeys(facts.server for facts in sorted(every.values(), key=lambda f: _boldness(f.server))):
        inside = {name: facts for name, facts in every.items() if facts.server == server}
        shown += _heading(next(iter(inside.values()))) if server else []
        shown += [Padding(_entry(name, facts), (0, 0, 0, 2 if server else 0)) for name, facts in inside.items()]
    return [*shown, Text(f"\nThe whole card of one: fedspill list {what} NAME", style="dim")]


def _boldness(server: str) -> int:
    """What asks the least of a server stands first."""
    order = ("", "honest-but-curious", "malicious parameters", "malicious architecture")
    return order.index(server) if server in order else len(order)


def _heading(facts: Facts) -> list[RenderableType]:
    return [Text.assemble((f"\n{facts.server}", "bold"), f": {facts.serves}")]


def _entry(name: str, facts: Facts) -> RenderableType:
    grid = Table.grid()
    grid.add_column(width=2)
    grid.add_column(overflow="fold")
    presets, more = list(facts.presets), len(facts.presets) - MOST_PRESETS
    told = ", ".join(presets[:MOST_PRESETS]) + (f" and {more} more" if more > 0 else "")
    needs = f"; needs {', '.join(facts.needs)}" if facts.needs else ""
    origin = f"; from {facts.origin}" if facts.origin else ""
    grid.add_row("", Text(facts.summary))
    grid.add_row("", Text(f"presets {told}{needs}{origin}", style="dim"))
    heading = Table.grid()
    heading.add_row(Text(name, style="bold"))
    heading.add_row(grid)
    return heading


def _one(what: str, name: str) -> list[RenderableType]:
    if what not in FOLDERS:
        headings, cells = rows(what)
        row = next((row for row in cells if row[0] == name), None)
        if row is None:
            raise BadInput(f"unknown {what} {name!r}; there are {', '.join(row[0] for row in cells)}")
        return [_pairs(list(zip(headings, row, strict=True)))]
    home = "tamperings" if what == "attacks" and name in _readers() else what
    every = cards(home)
    if name not in every:
        there = [*every, *(_readers() if what == "attacks" else [])]
        raise BadInput(f"unknown {what.removesuffix('s')} {name!r}; there are {', '.join(there)}{_elsewhere(name)}")
    return _card(home, name, every[name])


def _readers() -> list[str]:
    """The tamperings that a plan names among its attacks."""
    return [name for name, facts in cards("tamperings").items() if facts.reads]


def _elsewhere(name: str) -> str:
    found = [what for what in FOLDERS if name in cards(what)]
    return f" (fedspill list {found[0]} {name} knows it)" if found else ""


def _card(what: str, name: str, facts: Facts) -> list[RenderableType]:
    plan = IN_A_PLAN["attacks" if facts.reads else what].format(name)
    told = [("method", facts.title), ("paper", facts.paper), ("in a plan", plan)]
    if facts.server:
        told.append(("server", f"{facts.server}: {facts.serves}"))
        told.append(("needs", ", ".join(facts.needs) or "no grant"))
    told.append(("works on", ", ".join(facts.accepts)))
    if what in ("attacks", "tamperings"):
        told.append(("searches", "yes, so that a budget can end it" if facts.iterative else "no"))
    if facts.origin:
        told.append(("from", facts.origin))
    return [Text(name, style="bold"), Text(facts.summary), Text(""), _pairs(told), *_presets(facts)]


def _presets(facts: Facts) -> list[RenderableType]:
    """The fields of the first preset in full, of the others what differs."""
    (first, usual), *_ = facts.presets.items()
    shown: list[RenderableType] = [Text("\nPresets", style="bold")]
    for preset, values in facts.presets.items():
        differing = values if preset == first else {k: v for k, v in values.items() if usual.get(k) != v}
        same = "" if preset == first else f": as {first}, but" if differing else f": as {first}"
        shown.append(Text.assemble((preset, "bold"), same))
        pairs = [(key, "none" if value is None else value_text(value)) for key, value in differing.items()]
        shown += [Padding(_pairs(pairs), (0, 0, 0, 2))] if pairs else []
    return shown


def _pairs(pairs: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for key, value in pairs:
        grid.add_row(key, Text(value))
    return grid
