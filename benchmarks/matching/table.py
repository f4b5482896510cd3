"""`matching table`: the recorded curves beside the peer's, as a table and a plot.

Time is one of three. `quiet` (the default): iterations x seconds per iteration of `cost`, plus its setup, since curves
take hours on machines that may do other things meanwhile. It does not hold for presets whose iterations differ in
price: of those with an analytic part it is the processor time of the very run, which other work can only raise.
`wall` and `cpu`: what the clocks of the very run said.

The peer's time is that of its whole run, since its user cannot see when the PSNR is reached. Beside it stands the
stricter share of the time at which the peer itself first had its final PSNR. A run that never reaches it counts as
infinite, so that one makes the geometric mean infinite; the mean over those that did stands beside it with their
number. At equal time a run that ended sooner has what it returned.
"""

import argparse
import math
import statistics

from benchmarks.common import records
from benchmarks.matching.kept import Kept, load
from benchmarks.matching.times import NEVER, Row, compared, geometric_mean
from fedspill.core.errors import BadInput


def rows_of(kept: list[Kept], peer: str, tools: list[str] | None) -> list[Row]:
    """Every run that has the peer's beside it."""
    peers = {k.key: k.timed for k in kept if k.tool == peer}
    chosen = [k for k in kept if k.tool != peer and k.key in peers and (tools is None or k.tool in tools)]
    return [compared(k.key, k.tool, k.timed, peers[k.key]) for k in sorted(chosen, key=lambda k: (k.tool, k.key))]


def runs_table(rows: list[Row]) -> str:
    """One line per run."""
    heads = ["tool", "case", "image", "seed", "peer dB", "peer s", "dB at equal time", "s to the peer's dB", "share"]
    lines = [_line([*heads, "strict share"]), "|---" * 4 + "|---:" * 6 + "|"]
    for r in rows:
        times = [_number(r.seconds, 1), _number(r.share, 3), _number(r.strict_share, 3)]
        numbers = [f"{r.peer_psnr:.2f}", f"{r.peer_seconds:.1f}", f"{r.psnr:.2f}"]
        lines.append(_line([r.tool, r.case, str(r.image), str(r.seed), *numbers, *times]))
    return "\n".join(lines) + "\n"


def summary(rows: list[Row]) -> str:
    """One line per tool and case, and one per tool."""
    heads = ["tool", "case", "n", "peer dB", "dB at equal time", "gain", "reached", "share", "of those reached"]
    lines = [_line([*heads, "strict share"]), "|---|---" + "|---:" * 8 + "|"]
    for tool in sorted({r.tool for r in rows}):
        own = [r for r in rows if r.tool == tool]
        for case in [*sorted({r.case for r in own}), "all"]:
            lines.append(_line([tool, case, *_summed([r for r in own if case in (r.case, "all")])]))
    return "\n".join(lines) + "\n"


def _summed(rows: list[Row]) -> list[str]:
    peer, own = (statistics.mean(v) for v in zip(*((r.peer_psnr, r.psnr) for r in rows), strict=True))
    reached = [r.share for r in rows if r.share < NEVER]
    means = [geometric_mean([r.share for r in rows]), geometric_mean(reached)]
    means.append(geometric_mean([r.strict_share for r in rows]))
    counts = f"{len(reached)}/{len(rows)}"
    return [str(len(rows)), f"{peer:.2f}", f"{own:.2f}", f"{own - peer:+.2f}", counts, *(_number(m, 3) for m in means)]


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float, digits: int) -> str:
    if math.isnan(value):
        return "-"
    return "never" if value == NEVER else f"{value:.{digits}f}"


def run(args: argparse.Namespace) -> None:
    """Prints the costs that there are and the tables, and draws the plot."""
    from benchmarks.matching import cost

    folder = records.folder(args)
    if costs := sorted(folder.glob("cost-*.json")):
        print(cost.table(costs))
    kept = load(folder, args.clock)
    tools = None if args.preset is None else args.preset.split(",")
    rows = rows_of(kept, args.peer, tools)
    if not rows:
        raise BadInput(f"no run in {folder} has one of {args.peer} beside it")
    print(f"Time: {args.clock}. Share: geometric means of seconds to the peer's PSNR over the peer's seconds.\n")
    print(summary(rows))
    print(runs_table(rows))
    if args.plot is not None:
        from benchmarks.matching.plot import plot

        plot([k for k in kept if k.tool == args.peer or tools is None or k.tool in tools], args.peer, args.plot)
