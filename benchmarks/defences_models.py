"""Defences that change the network or the data, before an attacker who does not know of them and one who does.

Photographs of the embedded default, untrained networks, eval mode, one gradient, labels granted. Of each update the
PSNR of its best example. Seconds are those of one thread, process time.

    python -m benchmarks.defences_models
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fedspill.auditing import parse_plan, run_audit

SEARCH = {"name": "inverting_gradients", "preset": "quick", "steps": 120}
UPDATES = 3


@dataclass(frozen=True)
class Row:
    """One defence before one attack.

    Attributes:
        defence: None for none.
        attack: as a plan's entry.
        knows: the attacker knows of the defence.
        n: examples of an update.
    """

    defence: dict[str, Any] | None
    attack: dict[str, Any]
    knows: bool
    n: int = 1
    network: str = "lenet"
    size: int = 16
    updates: int = UPDATES

    def measured(self) -> str:
        """A line of a table."""
        began = time.process_time()
        plan = {
            "audit": {"attacks": [self.attack], "metrics": ["psnr"], "identification": []},
            "model": {"name": self.network},
            "data": {"name": "photos", "size": self.size, "indices": f"0:{self.n * self.updates}"},
            "client": {"num_examples": self.n},
            "defences": [] if self.defence is None else [self.defence],
            "server": {"knows_defence": self.knows},
        }
        report = run_audit(parse_plan(plan), device="cpu").report
        best = [max(v for v in t.scores[0].values if v is not None) for t in report.trials if t.skipped is None]
        cells = (
            " ".join(f"{v:.1f}" for v in best) or str(report.trials[0].skipped),
            f"{time.process_time() - began:.1f}",
        )
        told = "none" if self.defence is None else " ".join(str(v) for v in self.defence.values())
        knows = "yes" if self.knows else "no"
        return f"| {' | '.join((told, f'{self.network}, n = {self.n}', self.attack['name'], knows, *cells))} |"


def rows() -> Iterator[Row]:
    """What is measured."""
    yield Row(None, SEARCH, False)
    for percentile in (20.0, 60.0, 90.0):
        yield from (Row({"name": "soteria", "percentile": percentile}, SEARCH, knows) for knows in (False, True))
    yield from (Row({"name": "precode"}, SEARCH, knows) for knows in (False, True))
    yield Row(None, SEARCH, False, n=2)
    yield from (Row({"name": "precode"}, SEARCH, knows, n=2) for knows in (False, True))
    for k in (None, 2):
        defence = None if k is None else {"name": "mixup", "k": k}
        for name in ("linear_layer", "cocktail_party"):
            yield Row(defence, {"name": name, "preset": "quick"}, True, n=8, network="mlp", size=32, updates=2)


def main() -> None:
    """Prints the table row by row."""
    print("| defence | network | attack | knows | PSNR, dB | s |\n|---|---|---|---|---|---|")
    for row in rows():
        print(row.measured(), flush=True)


if __name__ == "__main__":
    main()
