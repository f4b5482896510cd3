"""Accuracy against what leaks to the strongest attack: one numbered dot for each defence."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from fedspill.rendering.drawing import canvas
from fedspill.rendering.drawing.canvas import BLUE, INK, VERMILION
from fedspill.rendering.drawing.figures import WIDE
from fedspill.rendering.sweep.prices import Price

HEIGHT = 420
CAPTION = (
    "Share of the private examples that leaked to the strongest attack (up) against accuracy after the short training"
    " (right), one dot for each defence by its number in the table. Down and right is better. Orange: the dots that no"
    " other beats in both."
)


def trade_off(prices: Sequence[Price], width: int = WIDE) -> str | None:
    """An SVG; None where fewer than two defences have both numbers."""
    shown = [p for p in prices if p.share is not None and p.accuracy is not None]
    if len(shown) < 2:
        return None
    drawn = canvas.figure(width, HEIGHT)
    axes = canvas.axes(drawn, left=64, right=20, bottom=54, top=16)
    front = _front(shown)
    for place, (at, there) in enumerate(sorted(_by_place(shown).items(), key=lambda dot: (dot[0][1], dot[0][0]))):
        _dot(axes, at, there, ahead=any(p in front for p in there), below=place % 2 == 1)
    _frame(axes)
    return canvas.svg(drawn, f"sweep-trade-off-{width}")


def _front(prices: Sequence[Price]) -> list[Price]:
    """Those than which no other leaks less and learns as well, or learns better and leaks no more."""
    return [p for p in prices if not any(_beats(other, p) for other in prices)]


def _beats(one: Price, other: Price) -> bool:
    mine, its = _place(one), _place(other)
    return mine[0] >= its[0] and mine[1] <= its[1] and mine != its


def _place(price: Price) -> tuple[float, float]:
    assert price.accuracy is not None
    assert price.share is not None
    return price.accuracy, price.share


def _by_place(prices: Sequence[Price]) -> dict[tuple[float, float], list[Price]]:
    """Defences by their dot: what would lie upon each other shares one, with all of their numbers."""
    found = dict[tuple[float, float], list[Price]]()
    for price in prices:
        accuracy, share = _place(price)
        found.setdefault((round(accuracy, 2), round(share, 2)), []).append(price)
    return found


def _dot(axes: Axes, at: tuple[float, float], prices: Sequence[Price], *, ahead: bool, below: bool) -> None:
    """Its numbers stand above or below it, so that those of neighbours do not lie upon each other."""
    axes.plot([at[0]], [at[1]], "o", color=VERMILION if ahead else BLUE, markersize=7, alpha=0.85, clip_on=False)
    numbers = [str(p.number) for p in prices]
    text = ", ".join(numbers) if len(numbers) <= 4 else f"{', '.join(numbers[:3])} +{len(numbers) - 3}"
    axes.annotate(
        text, at, xytext=(4, -14 if below else 5), textcoords="offset points", color=INK, fontsize=canvas.FONT - 2
    )


def _frame(axes: Axes) -> None:
    axes.set_ylim(-0.08, 1.08)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel("accuracy")
    axes.set_ylabel("leaked", color=INK, fontsize=canvas.FONT)
