"""A contact sheet of what a readout read: every candidate in the order of its bins, in a frame that says what it is."""

from collections.abc import Mapping, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from fedspill.rendering.bins import BinsRead, Sort, Tile
from fedspill.rendering.drawing.pictures import fitted, image, png

COLOURS: Mapping[Sort, str] = {
    "exact": "#009e73",
    "mixture": "#e69f00",
    "duplicate": "#56b4e9",
    "other": "#8a8f98",
    "empty": "#d0d4da",
}
"""Okabe and Ito's palette: told apart with any colour vision."""

WIDTH = 1080
"""Pixels of the page."""

_FRAME, _GAP, _LEGEND = 4, 4, 34


def bin_sheet(read: BinsRead) -> bytes:
    """The sheet as the bytes of a PNG file.

    Raises:
        ValueError: there is no picture.
    """
    tiles = [t for t in read.tiles if t.picture is not None]
    if not tiles:
        raise ValueError(f"{len(read.tiles)} readings were got and none holds an image; at least 1 is needed")
    side = 96 if len(tiles) <= 80 else 54
    pictures = [_framed(t, side) for t in tiles]
    cell = max(max(p.size) for p in pictures) + _GAP
    columns = min(len(pictures), max(1, (WIDTH + _GAP) // cell))
    rows, marks = -(-len(pictures) // columns), _marks(read)
    width = max(columns * cell - _GAP, round(sum(_width(text) for _, text in marks)))
    whole = Image.new("RGB", (width, rows * cell + _LEGEND), "white")
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k % columns * cell, k // columns * cell))
    _legend(whole, marks, rows * cell)
    return png(whole)


def _framed(tile: Tile, side: int) -> Image.Image:
    assert tile.picture is not None
    inner = fitted(image(tile.picture), side)
    framed = Image.new("RGB", (inner.width + 2 * _FRAME, inner.height + 2 * _FRAME), COLOURS[tile.sort])
    framed.paste(inner, (_FRAME, _FRAME))
    return framed


def _marks(read: BinsRead) -> list[tuple[Sort, str]]:
    words, counts = read.words, read.counts
    marks: list[tuple[Sort, str]] = [(s, f"{words[s]}: {counts.get(s, 0)}") for s in COLOURS if s != "empty"]
    empty = counts.get("empty", 0)
    return [*marks, ("empty", f"{words['empty']}: {empty} (not drawn)")] if empty else marks


def _legend(whole: Image.Image, marks: Sequence[tuple[Sort, str]], top: int) -> None:
    draw, x = ImageDraw.Draw(whole), 0.0
    for sort, text in marks:
        draw.rectangle([x, top + 8, x + 15, top + 23], fill=COLOURS[sort])
        draw.text((x + 22, top + 6), text, fill="#14181d", font=_font())
        x += _width(text)


def _width(text: str) -> float:
    """Pixels of one mark of the legend, with the space behind it."""
    return 22 + _font().getlength(text) + 26


@cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(15)
