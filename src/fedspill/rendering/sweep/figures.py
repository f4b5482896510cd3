"""What leaked by defence and attack: a panel of the shares and one of the main metric's medians."""

import math
import re
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes

from fedspill.rendering.drawing import canvas
from fedspill.rendering.drawing.canvas import INK, VERMILION
from fedspill.rendering.drawing.figures import NARROW, WIDE
from fedspill.rendering.numbers import metric_name
from fedspill.rendering.sweep.facts import Cell, Grid

MOST_DRAWN = 40
"""Attacks, or defences, of one figure; the table has them all."""
LETTER = 7.5
"""Pixels of one, in the mean."""
ROW = 50
"""Pixels."""


def shares(grid: Grid, width: int = WIDE) -> str | None:
    """The share of private examples that leaked: the darker, the more. SVG; None if nothing was judged."""
    return _matrix(grid, width, "share", lambda cell: cell.share, lambda v: f"{100 * v:.0f} %", (0.0, 1.0))


def medians(grid: Grid, width: int = WIDE) -> str | None:
    """The median of the main metric, in its unit. SVG; None if nothing was scored, or by different metrics."""
    values = [c.median for c in grid.cells.values() if c.median is not None]
    if not values or grid.metric is None:
        return None
    return _matrix(grid, width, "median", lambda cell: cell.median, lambda v: f"{v:.3g}", (min(values), max(values)))


def captions(grid: Grid) -> tuple[str, str]:
    """What the two figures show."""
    metric = "" if grid.metric is None else metric_name(grid.metric)
    unit = f" in {grid.unit}" if grid.unit else ""
    return (
        "Share of the private examples that leaked, by defence (rows) and attack (columns), over all other keys.",
        f"Median {metric}{unit} of the closest reconstruction of each private example, likewise.",
    )


def _matrix(
    grid: Grid,
    width: int,
    salt: str,
    value: Callable[[Cell], float | None],
    word: Callable[[float], str],
    ends: tuple[float, float],
) -> str | None:
    attacks, defences = grid.attacks[:MOST_DRAWN], grid.defences[:MOST_DRAWN]
    shown = {place: v for place, cell in grid.cells.items() if (v := value(cell)) is not None}
    if not shown:
        return None
    left = 220 if width > NARROW else 110
    drawn = canvas.figure(width, ROW * len(defences) + 116)
    axes = canvas.axes(drawn, left=left, right=14, bottom=10, top=100)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    table = np.full((len(defences), len(attacks)), np.nan)
    for (attack, defence), number in shown.items():
        if attack in attacks and defence in defences:
            table[defences.index(defence), attacks.index(attack)] = number
    _draw(axes, table, word, ends, narrow=(width - left) / len(attacks) < 60)
    _names(axes, attacks, defences, (width - left) / len(attacks), left)
    return canvas.svg(drawn, f"sweep-{salt}-{width}")


def _draw(
    axes: Axes, table: np.ndarray, word: Callable[[float], str], ends: tuple[float, float], *, narrow: bool
) -> None:
    low, high = ends
    rows, columns = table.shape
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    for place, number in np.ndenumerate(table):
        row, column = map(float, place)
        if np.isnan(number):
            canvas.write(axes, column, row, "-", ha="center", va="center", alpha=0.5)
            continue
        depth = 1.0 if high <= low else (number - low) / (high - low)
        across, low_side, high_side = [column - 0.48, column + 0.48], [row - 0.46] * 2, [row + 0.46] * 2
        axes.fill_between(across, low_side, high_side, color=VERMILION, alpha=0.06 + 0.5 * depth, linewidth=0)
        size = canvas.FONT - 3 if narrow else canvas.FONT
        canvas.write(axes, column, row, word(float(number)), ha="center", va="center", fontsize=size)


def _names(axes: Axes, attacks: list[str], defences: list[str], wide: float, left: int) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    along, down = axes.get_xaxis_transform(), axes.get_yaxis_transform()
    for column, name in enumerate(attacks):
        text = _lines(name, max(6, int(wide / LETTER)), 5)
        axes.text(column, 1.02, text, transform=along, ha="center", va="bottom", color=INK, parse_math=False)
    for row, name in enumerate(defences):
        text = _lines(name, int(left / LETTER) - 1, 3)
        axes.text(-0.01, row, text, transform=down, ha="right", va="center", color=INK, parse_math=False)


def _lines(name: str, letters: int, most: int) -> str:
    """A name on a few lines, broken after its signs where that can be, else within a word."""
    lines = [""]
    for piece in _pieces(_plain(name), letters):
        if lines[-1] and len(lines[-1]) + len(piece) > letters:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.strip() for line in lines[:most]) + (" .." if len(lines) > most else "")


def _pieces(name: str, letters: int) -> list[str]:
    """Pieces of at most so many letters; a longer word in equal parts."""
    pieces = list[str]()
    for word in re.split(r"(?<=[_:(, ])", name):
        part = math.ceil(len(word) / max(1, math.ceil(len(word) / letters)))
        pieces += [word[k : k + part] for k in range(0, len(word), max(1, part))]
    return pieces


def _plain(text: str) -> str:
    """Letters that the fonts have."""
    return "".join(c if c.isprintable() else "?" for c in text.encode("ascii", "replace").decode())
