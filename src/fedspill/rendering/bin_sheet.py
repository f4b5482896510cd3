"""A contact sheet of what a readout read: every candidate in the order of its bins, in a frame that says what it is."""

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from fedspill.rendering.bins import WORDS, BinsRead, Sort, Tile
from fedspill.rendering.pictures import fitted, image, png

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

_FRAME, _GAP, _LEGEND = 4, 6, 34


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
    rows = -(-len(pictures) // columns)
    whole = Image.new("RGB", (WIDTH, rows * cell + _LEGEND), "white")
    for k, picture in enumerate(pictures):
        whole.paste(picture, (k % columns * cell, k // columns * cell))
    _legend(whole, read.counts, rows * cell)
    return png(whole)


def _framed(tile: Tile, side: int) -> Image.Image:
    assert tile.picture is not None
    inner = fitted(image(tile.picture), side)
    framed = Image.new("RGB", (inner.width + 2 * _FRAME, inner.height + 2 * _FRAME), COLOURS[tile.sort])
    framed.paste(inner, (_FRAME, _FRAME))
    return framed


def _legend(whole: Image.Image, counts: Mapping[Sort, int], top: int) -> None:
    draw, font, left = ImageDraw.Draw(whole), ImageFont.load_default(15), 0
    for sort in _shown(counts):
        text = f"{WORDS[sort]}: {counts.get(sort, 0)}" + (" (not drawn)" if sort == "empty" else "")
        draw.rectangle([left, top + 8, left + 15, top + 23], fill=COLOURS[sort])
        draw.text((left + 22, top + 6), text, fill="#14181d", font=font)
        left += 22 + round(draw.textlength(text, font=font)) + 26


def _shown(counts: Mapping[Sort, int]) -> Sequence[Sort]:
    return [sort for sort in COLOURS if sort != "empty" or counts.get("empty", 0)]
