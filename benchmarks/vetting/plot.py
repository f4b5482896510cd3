"""Found against still read: what each trick costs the attacker."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.vetting.table import tricks
from benchmarks.vetting.thresholds import Case


def draw(cases: Sequence[Case], path: Path) -> None:
    """One point for each trick: the share of the plants found, and of the examples read, against those unhidden."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for k, (trick, found, read) in enumerate(tricks(cases)):
        axes.scatter([found.share], [read], label=trick, marker="osD^v<>PX*hpd"[k % 13])
    axes.set(xlabel="share of the plants found (levels of the other half)", ylabel="share of the examples still read")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
