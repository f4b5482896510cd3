"""Several audits in one picture with words: for each what was private beside what was rebuilt."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from PIL import Image, ImageDraw, ImageFont

from fedspill.rendering.drawing.pictures import Pair, both, enlarge, stacked

WIDTH = 1800
"""Pixels: twice the 900 that a page has room for."""
TILE = 192
"""Pixels a side: a whole multiple of 32, 64 and 96, so that every pixel of these stays a square."""
_GAP, _BETWEEN, _LINE = 12, 32, 32
_ROW, _HIGH = 4, TILE + 34 + _GAP
_INK, _SOFT = (20, 24, 28), (96, 102, 110)


@dataclass(frozen=True)
class Panel:
    """One audit in the picture.

    Attributes:
        title: one line.
        result: what came out, in words; broken into lines where it must.
        pairs: in rows of four.
    """

    title: str
    result: str
    pairs: tuple[Pair, ...]


def poster(panels: Sequence[Panel]) -> Image.Image:
    """The panels below each other on white, `WIDTH` pixels wide.

    Raises:
        ValueError: no panel was got.
    """
    if not panels:
        raise ValueError("0 panels were got; at least 1 is needed")
    return stacked([_drawn(panel) for panel in panels], _BETWEEN)


def _drawn(panel: Panel) -> Image.Image:
    lines = wrapped(panel.result, _font(24), WIDTH)
    top, rows = 40 + _LINE * len(lines) + _GAP, -(-len(panel.pairs) // _ROW)
    picture = Image.new("RGB", (WIDTH, top + max(1, rows) * _HIGH - _GAP), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((0, 0), panel.title, fill=_INK, font=_font(28, bold=True))
    for number, line in enumerate(lines):
        draw.text((0, 42 + _LINE * number), line, fill=_INK, font=_font(24))
    for number, pair in enumerate(panel.pairs):
        down, along = divmod(number, _ROW)
        _place(picture, draw, pair, along * (WIDTH + _column_gap()) // _ROW, top + down * _HIGH)
    return picture


def _column_gap() -> int:
    return (WIDTH - _ROW * (2 * TILE + _GAP)) // (_ROW - 1)


def _place(picture: Image.Image, draw: ImageDraw.ImageDraw, pair: Pair, left: int, top: int) -> None:
    for name, tile in zip(("original", "rebuilt"), both(pair), strict=True):
        picture.paste(enlarge(tile, TILE), (left, top))
        draw.text((left + TILE // 2, top + TILE + 4), name, fill=_SOFT, font=_font(22), anchor="ma")
        left += TILE + _GAP


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of whole words, each at most `width` pixels long unless a single word is longer."""
    lines = list[str]()
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries: no machine's own fonts are asked for."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / name, size)
