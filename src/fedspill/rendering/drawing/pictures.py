"""What was private and what was rebuilt from it, side by side, as PNG bytes."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from PIL import Image, ImageDraw
from torch import Tensor

SIDE = 192
"""Pixels; smaller pictures are enlarged by a whole factor to at most this side, pixel by pixel."""
LARGEST = 256
"""Pixels; larger pictures are reduced to this side."""
DIFFERENCE_RANGE = 0.25
"""The absolute difference (mean over channels) that is drawn as the lightest colour."""

COMPRESSION = 3
"""Of PNG: a tenth larger than the smallest files and made in a twentieth of their time, which a budget must hold."""

_GAP = 4


@dataclass(frozen=True)
class Pair:
    """A private example and the reconstruction that was matched to it, if any.

    Attributes:
        trial: the trial's name.
        example: index within the data split.
        private: in [0, 1].
        rebuilt: in [0, 1].
        values: score by metric name.
    """

    trial: str
    example: int
    private: Float[Tensor, "..."]
    rebuilt: Float[Tensor, "..."] | None
    values: Mapping[str, float] = field(default_factory=dict[str, float])

    @property
    def drawable(self) -> bool:
        """Only images can be drawn; tables and tokens cannot."""
        return self.private.ndim == 3


def image(pixels: Float[Tensor, "c h w"]) -> Image.Image:
    """A picture at its own size; channels other than 1 or 3 are averaged to grey."""
    if pixels.shape[0] not in (1, 3):
        pixels = pixels.float().mean(0, keepdim=True)
    clean = pixels.detach().float().cpu().nan_to_num(0.5).clamp(0, 1)
    array = (clean * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array.repeat(3, axis=2) if array.shape[2] == 1 else array)


def difference(pair: Pair) -> Image.Image:
    """Where the two differ: black is equal, the lightest colour is `DIFFERENCE_RANGE` or more."""
    if pair.rebuilt is None:
        return _blank(pair)
    gap = (pair.private.float() - pair.rebuilt.float()).abs().mean(0).detach().cpu().nan_to_num(1.0)
    shaded = colormaps["magma"]((gap / DIFFERENCE_RANGE).clamp(0, 1).numpy())
    return Image.fromarray((shaded[..., :3] * 255).round().astype(np.uint8))


def _blank(pair: Pair) -> Image.Image:
    """Stands for a reconstruction that does not exist: a grey field, crossed out."""
    height, width = pair.private.shape[-2:]
    blank = Image.new("RGB", (width, height), (225, 227, 230))
    draw = ImageDraw.Draw(blank)
    draw.line([(0, 0), (width - 1, height - 1)], fill=(150, 155, 162))
    draw.line([(0, height - 1), (width - 1, 0)], fill=(150, 155, 162))
    return blank


def enlarge(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """Small pictures pixel by pixel by a whole factor; pictures beyond `LARGEST` reduced."""
    longest = max(picture.size)
    if longest > LARGEST:
        size = (max(1, s * LARGEST // longest) for s in picture.size)
        return picture.resize((next(size), next(size)), Image.Resampling.LANCZOS)
    factor = max(1, side // longest)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def tiles(pair: Pair, side: int = SIDE) -> tuple[Image.Image, Image.Image, Image.Image]:
    """Private, rebuilt and difference, all of one size."""
    rebuilt = _blank(pair) if pair.rebuilt is None else image(pair.rebuilt)
    private, rebuilt, gap = (enlarge(p, side) for p in (image(pair.private), rebuilt, difference(pair)))
    return private, rebuilt, gap


def beside(pictures: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Pictures in a row on white."""
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    row = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    x = 0
    for picture in pictures:
        row.paste(picture, (x, 0))
        x += picture.width + gap
    return row


def strip(pair: Pair, side: int = SIDE) -> bytes:
    """One pair as `private | rebuilt | difference`."""
    return png(beside(tiles(pair, side)))


def sheet(pairs: Sequence[Pair], columns: int = 2, side: int = 96) -> bytes:
    """Many pairs as a contact sheet, in their order, row by row.

    Raises:
        ValueError: there is no pair to draw.
    """
    strips = [beside(tiles(pair, side)) for pair in pairs if pair.drawable]
    if not strips:
        raise ValueError(f"{len(pairs)} pairs were got and none holds images; at least 1 image pair is needed")
    return png(stacked([beside(strips[i : i + columns], 4 * _GAP) for i in range(0, len(strips), columns)]))


def overview(pairs: Sequence[Pair], width: int = 1080, side: int = 84) -> Image.Image:
    """Many pairs as `private | rebuilt`, in their order, as many in a row as the page is wide.

    Raises:
        ValueError: there is no pair to draw.
    """
    drawn = [beside([fitted(p, side) for p in both(pair)], _GAP // 2) for pair in pairs if pair.drawable]
    if not drawn:
        raise ValueError(f"{len(pairs)} pairs were got and none holds images; at least 1 image pair is needed")
    gap = 3 * _GAP
    columns = max(1, (width + gap) // (max(p.width for p in drawn) + gap))
    return stacked([beside(drawn[i : i + columns], gap) for i in range(0, len(drawn), columns)])


def both(pair: Pair) -> tuple[Image.Image, Image.Image]:
    """Private and rebuilt at their own size; a crossed-out field where nothing was rebuilt."""
    return image(pair.private), _blank(pair) if pair.rebuilt is None else image(pair.rebuilt)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose longer side has at most `side` pixels; small ones are enlarged by a whole factor."""
    longest = max(picture.size)
    if longest <= side:
        return enlarge(picture, side)
    width, height = (max(1, s * side // longest) for s in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def stacked(rows: Sequence[Image.Image], gap: int = 2 * _GAP) -> Image.Image:
    """Pictures below each other on white."""
    whole = Image.new("RGB", (max(r.width for r in rows), sum(r.height + gap for r in rows) - gap), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height + gap
    return whole


def png(picture: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=COMPRESSION)
    return buffer.getvalue()


def data_uri(picture: Image.Image) -> str:
    """A picture as text that an HTML file can hold."""
    return as_uri(png(picture))


def as_uri(content: bytes) -> str:
    """The bytes of a PNG file as text that an HTML file can hold."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")
