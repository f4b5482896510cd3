"""The plot of `scaling table`: seconds and memory against each quantity, on logarithmic axes."""

from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.scaling.measured import Measured

mpl.use("Agg")


WIDTH, HEIGHT, DPI = 3.0, 2.6, 100
"""Of a panel in inches, and dots per inch."""


def plot(lines: "dict[str, Measured]", path: Path) -> None:
    """A column for each quantity; time above, memory below."""
    groups = list(dict.fromkeys(one.line.group for one in lines.values()))
    size = (WIDTH * len(groups), HEIGHT * 2)
    figure, axes = plt.subplots(2, len(groups), figsize=size, squeeze=False, sharex="col")
    for number, group in enumerate(groups):
        members = [one for one in lines.values() if one.line.group == group]
        for one in members:
            _draw((axes[0][number], axes[1][number]), one)
        xs = sorted({x for one in members for x in one.xs})
        axes[1][number].set_xticks(xs, [f"{x:.0f}" for x in xs])
        axes[0][number].legend(fontsize=6)
        axes[1][number].set_xlabel(group)
    axes[0][0].set_ylabel("seconds")
    axes[1][0].set_ylabel("MB above start")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _draw(axes: "tuple[plt.Axes, plt.Axes]", one: "Measured") -> None:
    laws, values = one.laws, (one.seconds, one.memory)
    for axis, ys, found in zip(axes, values, laws, strict=True):
        axis.plot(one.xs, ys, marker="o", markersize=3, label=f"{one.line.title}: {found.exponent:.2f}")
        axis.set(xscale="log", yscale="log")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
