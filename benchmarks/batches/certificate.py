"""The certificate, at all levels of noise: no wrong example certified, and how many of the exact ones are."""

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.batches.records import RESULTS, keep
from benchmarks.common import records

COUNTS = ("images", "exact", "certified", "certified_but_not_exact", "exact_but_not_certified")


def run(args: argparse.Namespace) -> None:
    """All that `noise` has measured, by size of the batch and together."""
    cases: dict[str, dict[str, Any]] = records.read(RESULTS / "noise.json")["cases"]
    for size in args.sizes:
        keep(args, "certificate", {f"B = {size}": _sums(c for name, c in cases.items() if name.endswith(f"= {size}"))})
    keep(args, "certificate", {"all": _sums(cases.values())})


def _sums(cases: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    chosen = list(cases)
    return {name: sum(case[name] for case in chosen) for name in COUNTS}
