"""A federation over time: how good the global model was before each round, and what leaked in it."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from fedspill.rendering.drawing import canvas
from fedspill.rendering.drawing.canvas import BLUE, VERMILION
from fedspill.rendering.drawing.figures import WIDE
from fedspill.rendering.rounds import name_of
from fedspill.report.schema import AuditReport, RoundRecord

_HEIGHT = 220
"""Pixels of one world's panel."""
_TITLE = 24
"""Pixels above a panel for its name, which the layout does not count: a long one would leave nothing of the panel."""


def history(report: AuditReport, width: int = WIDE) -> str | None:
    """Accuracy as a line, leaked shares as diamonds, by round; a panel for each world.

    Returns:
        An SVG element; None of fewer than two rounds.
    """
    worlds = [[r for r in report.rounds if r.world == w] for w in dict.fromkeys(r.world for r in report.rounds)]
    if not worlds or max(map(len, worlds)) < 2:
        return None
    drawn = canvas.figure(width, _HEIGHT * len(worlds), layout="constrained")
    layout = drawn.get_layout_engine()
    if isinstance(layout, ConstrainedLayoutEngine):
        layout.set(h_pad=_TITLE / 72)
    panels = drawn.subplots(len(worlds), 1, squeeze=False).flatten().tolist()
    for axes, rounds in zip(panels, worlds, strict=True):
        _draw(canvas.dress(axes), rounds, width if len(worlds) > 1 else 0)
    return canvas.svg(drawn, f"history-{width}")


def _draw(axes: Axes, rounds: Sequence[RoundRecord], width: int) -> None:
    """One world's panel, with its name if that has room: `width` pixels."""
    known = [(r.number, r.accuracy) for r in rounds if r.accuracy is not None]
    leaked = [(r.number, r.leakage.rate) for r in rounds if r.leakage is not None]
    if known:
        axes.plot(*zip(*known, strict=True), color=BLUE, linewidth=1.6, marker="o", markersize=4)
    for number, share in leaked:
        axes.plot([number, number], [0, share], color=VERMILION, linewidth=2, alpha=0.5)
    if leaked:
        axes.scatter(*zip(*leaked, strict=True), s=52, color=VERMILION, marker="D", linewidths=0, zorder=3)
    axes.set_ylim(-0.06, 1.08)
    axes.set_xlim(-0.5, rounds[-1].number + 0.5)
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.set_xlabel("round")
    if width:
        canvas.write(
            axes,
            0.0,
            1.05,
            name_of(rounds[0].world)[: width // 9],
            transform=axes.transAxes,
            fontweight="bold",
            in_layout=False,
        )
