"""The plot of `matching table`: PSNR against seconds, one panel per case."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.matching.kept import Kept
from benchmarks.matching.times import Timed

mpl.use("Agg")


WIDTH, HEIGHT, DPI = 4.2, 3.4, 110
"""Of a panel in inches, and dots per inch."""


def plot(kept: "list[Kept]", peer: str, path: Path) -> None:
    """Thin lines are runs and dots what they returned; thick lines their mean, what ended counting as it returned."""
    cases, tools = sorted({k.key[0] for k in kept}), sorted({k.tool for k in kept}, key=lambda t: (t != peer, t))
    figure, axes = plt.subplots(1, len(cases), figsize=(WIDTH * len(cases), HEIGHT), squeeze=False, sharey=True)
    for axis, case in zip(axes[0], cases, strict=True):
        for number, tool in enumerate(tools):
            runs = [k.timed for k in kept if k.tool == tool and k.key[0] == case]
            _draw(axis, runs, tool, f"C{number}")
        axis.set(title=case, xlabel="seconds", xscale="log")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("PSNR (dB)")
    axes[0][0].legend(fontsize="small", loc="center left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _draw(axis: plt.Axes, runs: "list[Timed]", tool: str, colour: str) -> None:
    if not runs:
        return
    for run in runs:
        axis.plot(run.seconds, run.psnr, color=colour, alpha=0.3, linewidth=0.7)
        # A run without iterations has an end only.
        axis.plot(run.end, run.final, "o", color=colour, alpha=0.6, markersize=4)
    if all(len(r.seconds) == 1 for r in runs):
        axis.plot([], [], color=colour, label=tool)
        return
    times = np.geomspace(max(r.seconds[0] for r in runs), max(r.end for r in runs), 200)
    axis.plot(times, [np.mean([r.at(t) for r in runs]) for t in times], color=colour, linewidth=1.8, label=tool)
