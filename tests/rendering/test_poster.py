"""The picture of several audits: every pixel of a photograph is a square of one colour, beside words that fit."""

import pytest
import torch
from PIL import ImageFont

from fedspill.rendering.drawing.pictures import Pair
from fedspill.rendering.drawing.poster import TILE, WIDTH, Panel, poster, wrapped


def panel(pairs: int, result: str = "2 of 2", rebuilt: bool = True) -> Panel:
    private = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    pair = Pair("trial", 0, private, 1 - private if rebuilt else None)
    return Panel("1. A title", result, (pair,) * pairs)


def squares(drawn: torch.Tensor, left: int, top: int) -> torch.Tensor:
    """The one colour of each square of a tile, (3, 32, 32); fails where a square has two."""
    factor = TILE // 32
    tile = drawn[:, top : top + TILE, left : left + TILE].unfold(1, factor, factor).unfold(2, factor, factor)
    assert bool((tile.amax((3, 4)) == tile.amin((3, 4))).all())
    return tile[..., 0, 0]


def test_pixels_stay_squares_of_their_own_colour() -> None:
    one = panel(1)
    drawn = (
        torch.frombuffer(bytearray(poster([one]).tobytes()), dtype=torch.uint8).reshape(-1, WIDTH, 3).permute(2, 0, 1)
    )
    top = drawn.shape[1] - TILE - 34
    private, rebuilt = one.pairs[0].private, one.pairs[0].rebuilt
    assert rebuilt is not None
    for place, expected in enumerate((private, rebuilt)):
        assert torch.equal(squares(drawn, place * (TILE + 12), top), (expected * 255).round().byte())


def test_four_pairs_fill_the_width_and_panels_stand_below_each_other() -> None:
    picture = poster([panel(4)])
    right = picture.crop((WIDTH - TILE, picture.height - TILE - 34, WIDTH, picture.height - 34))
    assert right.getextrema() != ((255, 255),) * 3
    assert poster([panel(4), panel(2)]).height > 2 * picture.height
    eight = poster([panel(8)])
    assert eight.height == picture.height + TILE + 46
    last = eight.crop((WIDTH - TILE, eight.height - TILE - 34, WIDTH, eight.height - 34))
    assert last.tobytes() == right.tobytes()
    assert poster([panel(1, rebuilt=False)]).size == poster([panel(1)]).size


def test_long_results_are_broken_between_words() -> None:
    font, text = ImageFont.load_default(24), "none of 64 photographs was copied exactly " * 9
    lines = wrapped(text, font, 600)
    assert len(lines) > 1
    assert max(font.getlength(line) for line in lines) <= 600
    assert " ".join(lines) == text.strip()
    assert wrapped("x" * 300, font, 600) == ["x" * 300]
    assert wrapped("", font, 600) == []
    assert poster([panel(1, text)]).height > poster([panel(1)]).height


def test_nothing_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        poster([])
