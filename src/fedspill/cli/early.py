"""What is refused at once, before anything heavy is imported, in the words that would come later.

What is not found here is found when the plan is parsed, or when its time has come; nothing is let through by this.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedspill.core.errors import BadInput
from fedspill.plan.tables import table_of
from fedspill.plan.values import check_values, shortened

STDOUT = "md"
HELP = "The headline as Markdown: md prints it and nothing else; FILE.md writes it there."


@dataclass(frozen=True)
class Headline:
    """What `--summary` asks for.

    Attributes:
        file: to write it to; None prints it in the place of the summary for a terminal.
    """

    file: Path | None


def headline_of(text: str | None, *, as_json: bool = False) -> Headline | None:
    """What `--summary` says; None if it is not given. The folder of its file is made at once, not after an audit.

    Args:
        as_json: report.json is printed already.

    Raises:
        BadInput: it is neither `md` nor a file of that ending that can be written, or two things would be printed.
    """
    if text is None:
        return None
    if text == STDOUT:
        if as_json:
            raise BadInput("--summary md and --json both print to the terminal; give --summary FILE.md beside --json")
        return Headline(None)
    file = Path(text)
    if file.suffix != f".{STDOUT}" or file.is_dir():
        raise BadInput(f"--summary {text[:80]!r}: md, or the name of a file that ends in .md, is needed")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"--summary {text[:80]!r}: nothing can be written in {str(file.parent)!r}: {error}") from None
    return Headline(file)


MOST_TOLD = 8
"""Mistakes that are told at once."""
WORDS = ("untrained", "trained", "robust")
"""Weights that are no file."""


def plan_table(path: Path, settings: list[str] | None = None) -> dict[str, Any]:
    """The tables of a plan's file, with settings laid over them.

    Raises:
        BadInput: the file is missing or is no TOML, or names a key, an attack, a tampering, a defence, a preset, or a
            file of weights that there is none of, or a value that its key does not take.
    """
    table = table_of(path, settings)
    if "sweep" in table:
        raise BadInput(f"the plan has a table [sweep], which is run by: fedspill sweep {path}")
    check_names(table)
    _check_shape(table)
    return table


def check_names(table: dict[str, Any]) -> None:
    """Raises BadInput if a plan names something that there is none of, or a value that no key takes."""
    check_values(table)
    told = [*_unknown_keys(table), *_unknown_names(table)]
    if told:
        raise BadInput("; ".join(told[:MOST_TOLD]))
    model = table.get("model")
    if isinstance(model, dict) and isinstance(weights := model.get("weights"), str):
        check_file(weights)


def _check_shape(table: dict[str, Any]) -> None:
    from fedspill.plan.file import parse_as
    from fedspill.plan.sections import AuditPlan

    parse_as(AuditPlan, table, shape_only=True)


def check_file(path: str | Path) -> None:
    """Raises BadInput if weights, or an update, are neither one of the words for weights nor there."""
    if str(path) not in WORDS and not Path(path).exists():
        raise BadInput(f"file {str(path)!r} does not exist")


def check_report(folder: Path) -> None:
    """Raises BadInput if a folder holds no report."""
    if not (folder / "report.json").is_file():
        raise BadInput(f"{str(folder)!r} holds no report.json; give the output folder of an audit")


def check_device(name: str) -> None:
    """Raises BadInput if there is no such device on any machine."""
    if name not in ("auto", "cpu", "cuda"):
        raise BadInput(f"--device {name!r} is unknown; it is auto, cpu or cuda")


def _unknown_keys(table: dict[str, Any]) -> Iterator[str]:
    from fedspill.cli.listing import plan_keys

    for where, known in plan_keys().items():
        here: Any = table
        for step in filter(None, where.split(".")):
            here = here.get(step) if isinstance(here, dict) else None
        for key in here if isinstance(here, dict) else ():
            if key not in known:
                name = f"{where}.{key}" if where else key
                yield f"plan key {shortened(name)} is unknown; allowed here: {', '.join(known)}"


def _unknown_names(table: dict[str, Any]) -> Iterator[str]:
    audit, server, defences = (table.get(name) for name in ("audit", "server", "defences"))
    for entry in _entries(audit.get("attacks") if isinstance(audit, dict) else None):
        yield from _unknown("attack", *entry)
    for entry in _entries([server.get("tampering")] if isinstance(server, dict) else None):
        yield from _unknown("tampering", *entry)
    for entry in _entries(defences):
        yield from _unknown("defence", *entry)


def _entries(listed: object) -> Iterator[tuple[str, str]]:
    """Name and preset of each entry that has them as a plan writes them."""
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, str):
            name, _, preset = entry.partition(":")
            yield name, preset or "paper"
        elif isinstance(entry, dict) and isinstance(name := entry.get("name"), str):
            preset = entry.get("preset", "paper")
            yield name, preset if isinstance(preset, str) else "paper"


def _unknown(what: str, name: str, preset: str) -> Iterator[str]:
    from fedspill.cli import listing

    cards = listing.cards(f"{what}s")
    if what == "attack":
        planted = listing.cards("tamperings")
        if name == "standard" or (name in planted and not planted[name].reads):
            return
        cards |= {other: facts for other, facts in planted.items() if facts.reads}
    if name not in cards:
        yield f"unknown {what} {name!r}; there are {', '.join(sorted(cards))}"
    elif preset not in cards[name].presets:
        yield f"{what} {name!r} has no preset {preset!r}; it has {', '.join(cards[name].presets)}"
