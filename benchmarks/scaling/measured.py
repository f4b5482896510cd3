"""Points of the scaling laws that were recorded."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import records
from benchmarks.scaling.cases import LINES, Line
from benchmarks.scaling.fit import SMALLEST, Law, law


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
