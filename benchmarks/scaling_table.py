"""`scaling table`: exponents of the lines that are on disk, and PSNR after local steps."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import matching_records as records
from benchmarks import scaling_fedavg
from benchmarks.scaling_cases import LINES, Line
from benchmarks.scaling_fit import SMALLEST, Law, law
from benchmarks.scaling_records import folder
from fedspill.core.errors import BadInput

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- benchmarks.scaling table: begin -->", "<!-- benchmarks.scaling table: end -->"
HEADS = ("what grows", "values", "seconds", "exponent", "MB above start", "exponent")


@dataclass(frozen=True)
class Measured:
    """A line with its points, in order."""

    line: Line
    xs: list[float]
    seconds: list[float]
    memory: list[float]

    @property
    def laws(self) -> tuple[Law, Law]:
        """Of seconds and memory."""
        return law(self.xs, self.seconds), law(self.xs, self.memory)


def measured(at: Path) -> dict[str, Measured]:
    """The lines of which at least two points are on disk."""
    found = dict[str, Measured]()
    for name, line in LINES.items():
        paths = {x: at / f"cost-{name}-{x}.json" for x in line.points}
        rows = {x: records.read(path)["found"] for x, path in paths.items() if path.is_file()}
        if len(rows) > 1:
            seconds = [row["median"] for row in rows.values()]
            memory = [max(row["peak_mb"] - row["start_mb"], SMALLEST) for row in rows.values()]
            found[name] = Measured(line, [float(x) for x in rows], seconds, memory)
    return found


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
        parts += [scaling_fedavg.table(at), conditions(curves, "PSNR")]
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
        from benchmarks.scaling_plot import plot

        page = DOCS / "performance.md"
        page.write_text(written(page.read_text(), found))
        plot(measured(folder(args)), DOCS / "scaling.png")
