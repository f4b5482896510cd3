"""`scaling table`: exponents of the lines that are on disk, and PSNR after local steps."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import records
from benchmarks.common.places import DOCS
from benchmarks.scaling import fedavg
from benchmarks.scaling.measured import Measured, measured
from benchmarks.scaling.records import folder
from fedspill.core.errors import BadInput

BEGIN, END = "<!-- benchmarks.scaling table: begin -->", "<!-- benchmarks.scaling table: end -->"
HEADS = ("what grows", "values", "seconds", "exponent", "MB above start", "exponent")


def cost_table(lines: dict[str, Measured]) -> str:
    """Markdown."""
    text = ["| " + " | ".join(HEADS) + " |", "|---|---|---|---:|---|---:|"]
    for one in lines.values():
        time, memory = one.laws
        cells = [one.line.title, _listed(one.xs, 0), _listed(one.seconds, 3), str(time)]
        text.append("| " + " | ".join([*cells, _listed(one.memory, 0), str(memory)]) + " |")
    return "\n".join(text) + "\n"


def _listed(values: list[float], digits: int) -> str:
    return ", ".join(f"{v:.{digits}f}" for v in values)


def conditions(paths: list[Path], what: str) -> str:
    """One sentence about the machine of some records; numbers that differ are given as ranges."""
    told = [records.read(path)["conditions"] for path in paths]
    loads, days = [t["load"] for t in told], sorted({t["day"] for t in told})
    machines = sorted({f"{t['device']}, PyTorch {t['versions']['torch']}, {t['threads']} thread(s)" for t in told})
    commands = sorted({t["command"] for t in told})
    return (
        f"{what}: `{'`, `'.join(commands)}`; {'; '.join(machines)}; {', '.join(days)};"
        f" load of the machine {min(loads):.1f} to {max(loads):.1f}.\n"
    )


def text(at: Path) -> str:
    """Both tables with their conditions.

    Raises:
        BadInput: nothing was measured.
    """
    lines, parts = measured(at), list[str]()
    if lines:
        paths = [at / f"cost-{n}-{x:.0f}.json" for n, one in lines.items() for x in one.xs]
        parts += [cost_table(lines), conditions(paths, f"Cost, clock {_clock(paths[0])}")]
    if curves := sorted(at.glob("curve-fedavg*.json")):
        parts += [fedavg.table(at), conditions(curves, "PSNR")]
    if not parts:
        raise BadInput(f"nothing of this benchmark lies in {at}; `cost` or `fedavg` makes it")
    return "\n".join(parts)


def _clock(path: Path) -> Any:
    return records.read(path)["conditions"]["clock"]


def written(document: str, table: str) -> str:
    """The document with another table between its marks.

    Raises:
        BadInput: it has no marks.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BadInput(f"the document has no {BEGIN} ... {END} to write a table between")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"


def run(args: argparse.Namespace) -> None:
    """Prints the tables, or writes them with the plot into docs."""
    found = text(folder(args))
    print(found)
    if args.write:
        from benchmarks.scaling.plot import plot

        page = DOCS / "performance.md"
        page.write_text(written(page.read_text(), found))
        plot(measured(folder(args)), DOCS / "scaling.png")
