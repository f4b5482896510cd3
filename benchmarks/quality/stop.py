"""How often a rule for stopping at a quality stops too early or too late, by what `traces` kept.

`python -m benchmarks.quality.stop FILE.json`
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedspill.inversion.matching.quality import EXPLAINED_AT, SHARED, combined, explained

Point = dict[str, Any]
Rule = Callable[[Point], float]
LEVELS = (12.0, 14.0, 16.0, 18.0, 20.0)
TOLERATED = 1.0
"""dB below the level that do not count as too early."""
WINDOW = 16
"""Iterations between two estimates, as in `BatchedSearch`; the traces have one every 6."""
RULES: dict[str, Rule] = {
    "agreement": lambda p: p["agreement"],
    "agreement - 3 dB": lambda p: p["agreement"] - 3,
    "share of the blank image's distance": lambda p: explained(min(p["left"])),
    "both, the lower": lambda p: combined(p["agreement"], min(p["left"])),
    "stall: moved less over 18 iterations, 6 dB off": lambda p: (p["moved"] or 0.0) - 6,
}


def judged(trace: list[Point], rule: Rule, level: float) -> tuple[str, float]:
    """What the rule did at a level, and the share of the iterations that it saved."""
    quality = [_kept(p) for p in trace]
    stop = next((k for k, p in enumerate(trace) if rule(p) >= level), None)
    reached = next((k for k, q in enumerate(quality) if q >= level), None)
    if stop is None:
        return ("missed" if reached is not None else "rightly never"), 0.0
    saved = 1 - trace[stop]["step"] / trace[-1]["step"]
    return ("early" if quality[stop] < level - TOLERATED else "right"), saved


def _kept(point: Point) -> float:
    """PSNR of what would be returned: the run that is closer to the update."""
    return point["truth"][min(range(len(point["left"])), key=lambda r: point["left"][r])]


def table(traces: dict[str, list[Point]], rules: dict[str, Rule]) -> list[str]:
    """Rows of counts over all traces and levels."""
    rows = [
        "| rule | stopped right | too early | rightly never | missed | iterations saved where right |",
        "|---|---|---|---|---|---|",
    ]
    for name, rule in rules.items():
        told = [judged(t, rule, level) for t in traces.values() for level in LEVELS]
        counts = [sum(kind == k for kind, _ in told) for k in ("right", "early", "rightly never", "missed")]
        saved = [s for kind, s in told if kind == "right"]
        mean = f"{sum(saved) / len(saved):.0%}" if saved else "-"
        rows.append(f"| {name} | {' | '.join(map(str, counts))} | {mean} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--by-case", action="store_true")
    args = parser.parse_args()
    traces: dict[str, list[Point]] = json.loads(args.file.read_text())["traces"]
    if args.by_case:
        rows = list[str]()
        for case in dict.fromkeys(k.rpartition(",")[0] for k in traces):
            rows += [f"## {case}", *table({k: t for k, t in traces.items() if k.rpartition(",")[0] == case}, RULES)]
        print("\n".join(rows))
    print(f"{len(traces)} traces; constants {EXPLAINED_AT:g} and {SHARED:g} dB")
    for what, odd in (("the constants were chosen on", 0), ("the others", 1)):
        half = {k: t for k, t in traces.items() if int(k.rpartition(",")[2]) // 100 % 2 == odd}
        print(f"\n{what}: {len(half)}\n" + "\n".join(table(half, RULES)))


if __name__ == "__main__":
    main()
