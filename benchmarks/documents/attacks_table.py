"""Writes docs/attacks.md from the cards; `--check` fails if it is stale.

`python -m benchmarks.documents.attacks_table`
"""

import argparse
import sys
from typing import Any

from benchmarks.common.places import DOCS
from fedspill import catalogue
from fedspill.core.roles import Card
from fedspill.core.settings import described, flat_fields

TARGET = DOCS / "attacks.md"
HEAD = """# Attacks, malicious servers, defences and checks

Generated from the cards in `src/fedspill/attacks`, `tamperings`, `defences` and `guard` by `make docs`; do not edit.
Measured results are in [results.md](results.md).
"""


def table(title: str, cards: dict[str, Card[Any]]) -> str:
    """One section: what there is, then every preset with its fields."""
    rows = [f"\n## {title}\n", "| name | method | server | needs | what it does |", "|---|---|---|---|---|"]
    for name, card in cards.items():
        needs = ", ".join(sorted(k.value for k in card.needs)) or "-"
        rows.append(f"| `{name}` | {card.title} ({card.paper}) | {card.role.value} | {needs} | {card.summary} |")
    return "\n".join([*rows, *(presets(name, card) for name, card in cards.items())])


def plain_table(title: str, cards: dict[str, Card[Any]]) -> str:
    """The same of what clients do, of which no server and no grant is asked."""
    rows = [f"\n## {title}\n", "| name | method | what it does |", "|---|---|---|"]
    rows += [f"| `{name}` | {card.title} ({card.paper}) | {card.summary} |" for name, card in cards.items()]
    return "\n".join([*rows, *(presets(name, card) for name, card in cards.items())])


def presets(name: str, card: Card[Any]) -> str:
    """The presets of one component: the first in full, the others by what differs."""
    first = next(iter(card.presets.values()))
    lines = [f"\n### `{name}`\n"]
    for preset, component in card.presets.items():
        usual = {} if component is first else flat_fields(first)
        shown = [
            f"{name}={described(value)}"
            for name, value in flat_fields(component).items()
            if name not in usual or value != usual[name]
        ]
        lines.append(
            f"- `{preset}`: {', '.join(shown) or 'no fields' if component is first else ', '.join(shown) or 'the same'}"
        )
    return "\n".join(lines)


def document() -> str:
    """The whole file."""
    sections = [
        table("Attacks", catalogue.attacks()),
        table("Malicious servers", catalogue.tamperings()),
        plain_table("Defences of the clients", catalogue.defences()),
        plain_table("Checks of incoming models", catalogue.checks()),
    ]
    return HEAD + "\n".join(sections) + "\n"


def main() -> None:
    """Writes the file, or with --check compares it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if docs/attacks.md is stale")
    if not parser.parse_args().check:
        TARGET.write_text(document(), encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != document():
        sys.exit("docs/attacks.md is stale: run `make docs`")


if __name__ == "__main__":
    main()
