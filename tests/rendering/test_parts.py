"""Pictures, figures, facts and numbers that the views are made of."""

import io
import tomllib

import pytest
import torch
from PIL import Image

from fedspill.rendering import facts, numbers
from fedspill.rendering.drawing import figures, pictures
from fedspill.rendering.drawing.pictures import Pair, sheet, strip
from fedspill.rendering.html.plan_text import plan_text
from tests.support.reports import HOSTILE, STATES, State, plan, report


@pytest.mark.parametrize(("channels", "side", "expected"), [(3, 32, 192), (1, 28, 168), (4, 5, 190), (3, 300, 256)])
def test_a_strip_is_three_tiles(channels: int, side: int, expected: int) -> None:
    pair = Pair("t", 0, torch.rand(channels, side, side), torch.rand(channels, side, side))
    assert Image.open(io.BytesIO(strip(pair))).size == (3 * expected + 8, expected)


def test_pixels_are_enlarged_exactly() -> None:
    private = torch.rand(3, 4, 4)
    big = pictures.enlarge(pictures.image(private))
    assert big.size == (192, 192)
    small = big.resize((4, 4), Image.Resampling.NEAREST)
    assert small.tobytes() == pictures.image(private).tobytes()


def test_difference_is_black_only_where_equal() -> None:
    private = torch.zeros(3, 2, 2)
    rebuilt = private.clone()
    rebuilt[:, 0, 0] = 1.0
    drawn = pictures.difference(Pair("t", 0, private, rebuilt))
    dark, light = drawn.getpixel((1, 1)), drawn.getpixel((0, 0))
    assert isinstance(dark, tuple)
    assert isinstance(light, tuple)
    assert max(dark) < 8
    assert min(light) > 150


def test_pictures_survive_values_that_are_no_pixels() -> None:
    odd = torch.full((3, 4, 4), float("nan"))
    odd[0] = 7.0
    assert strip(Pair("t", 0, torch.rand(3, 4, 4), odd))


def test_a_contact_sheet_holds_every_pair() -> None:
    some = [Pair("t", i, torch.rand(3, 32, 32), None) for i in range(5)]
    width, height = Image.open(io.BytesIO(sheet(some, columns=2))).size
    assert (width, height) == (2 * (3 * 96 + 8) + 16, 3 * 96 + 2 * 8)


def test_a_sheet_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 image pair is needed"):
        sheet([Pair("t", 0, torch.rand(7), None)])


def test_figures_are_the_same_every_time() -> None:
    audit = report()
    assert figures.distribution(audit) == figures.distribution(audit)
    assert figures.curves(audit) == figures.curves(audit)


def test_there_is_no_figure_of_nothing() -> None:
    skipped = report(STATES["all skipped"])
    assert figures.distribution(skipped) is None
    assert figures.curves(skipped) is None


def test_guesses_are_counted_once_per_update() -> None:
    audit = report(State(seeds=(0, 1)))
    scores = facts.baseline_scores(audit.trials, "psnr")
    assert {name: sum(len(s.values) for s in found) for name, found in scores.items()} == {
        "mean image": 8,
        "best public image": 8,
        "TV only": 8,
    }


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (19.42, "dB", "19.4 dB"),
        (100.0, "dB", "100 dB"),
        (0.1234, "", "0.123"),
        (None, "dB", "–"),
        (2e-7, "", "2.00e-07"),
    ],
)
def test_numbers_carry_their_units(value: float | None, unit: str, text: str) -> None:
    assert numbers.number(value, unit) == text


def test_a_long_description_is_cut_between_words() -> None:
    assert numbers.brief("a  short one") == "a  short one"
    cut = numbers.brief("tiles of colour photographs, " * 9)
    assert len(cut) <= 80
    assert cut.endswith("photographs, ...") or cut.endswith("colour ...") or cut.endswith("tiles of ...")


def test_a_plan_is_written_as_toml() -> None:
    written = plan(State(data=HOSTILE.replace("\x0b", "")))
    del written["model"]["weights"]  # type: ignore[attr-defined]
    assert tomllib.loads(plan_text(plan(State(data=HOSTILE.replace("\x0b", ""))))) == written
