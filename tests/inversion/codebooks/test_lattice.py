"""Where the numbers of real data lie, against brute force over single pixels and columns."""

from math import isnan

import pytest
import torch

from fedspill.core.inputs import CategoricalColumn, ImageSpec, NumericColumn, TableSpec, TokenSpec
from fedspill.core.rng import rand, stream
from fedspill.inversion.codebooks.lattice import FEWEST, lattice_residual, nearest

IMAGES = ImageSpec((3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
TABLE = TableSpec(
    (
        NumericColumn("age", 40.0, 13.0, 17.0, 90.0, 1.0),
        NumericColumn("rate", 0.2, 0.5, -1.0, 1.0, 0.25),
        NumericColumn("height", 1.7, 0.1, 1.0, 2.5),
        NumericColumn("weight of the record", 2e5, 1e5, 0.0, 2e6, 1.0),
        CategoricalColumn("work", ("a", "b", "c")),
    )
)
LIKE = torch.zeros((), dtype=torch.float64)


def eight_bit(n: int, name: str) -> torch.Tensor:
    return (rand((n, *IMAGES.shape), stream(0, "lattice", name), LIKE) * 255).round() / 255


def rows(n: int, name: str) -> torch.Tensor:
    r = rand((n, 5), stream(0, "lattice", name), LIKE)
    columns = [17 + (r[:, 0] * 73).round(), (r[:, 1] * 8).round() / 4 - 1, 1 + r[:, 2]]
    return torch.stack([*columns, (r[:, 3] * 2e6).round(), (r[:, 4] * 3).floor()], 1)


def test_the_residual_of_images_is_that_of_a_loop_over_pixels() -> None:
    pixels = rand((5, *IMAGES.shape), stream(0, "lattice", "loop"), LIKE) * 1.4 - 0.2
    got = lattice_residual(IMAGES, IMAGES.encode(pixels))
    for picture, value in zip(pixels, got, strict=True):
        levels = [float(p) * 255 for p in picture.flatten() if 0.5 < float(p) * 255 < 254.5]
        assert float(value) == pytest.approx(sum(abs(v - round(v)) for v in levels) / len(levels), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pictures_lie_on_the_lattice_and_mixtures_do_not(dtype: torch.dtype) -> None:
    z, other = IMAGES.encode(eight_bit(6, "one")).to(dtype), IMAGES.encode(eight_bit(6, "other")).to(dtype)
    assert float(lattice_residual(IMAGES, z).max()) < 1e-4
    mixed = lattice_residual(IMAGES, 0.63 * z + 0.37 * other)
    assert float((mixed - 0.25).abs().max()) < 0.06  # the mean of about 190 numbers uniform in [0, 0.5]
    flat = lattice_residual(IMAGES, z.flatten(1))
    torch.testing.assert_close(flat, lattice_residual(IMAGES, z))


def test_other_bounds_are_divided_into_as_many_steps() -> None:
    wide = ImageSpec((3, 8, 8), bounds=(-1.0, 1.0), mean=(0.1,), std=(0.5,))
    z = wide.encode(eight_bit(3, "wide") * 2 - 1)
    assert float(lattice_residual(wide, z).max()) < 1e-9
    torch.testing.assert_close(nearest(wide, z + 0.001), z)


def test_too_few_pixels_inside_the_range_say_nothing() -> None:
    pixels = torch.zeros(2, *IMAGES.shape, dtype=torch.float64)
    pixels.view(2, -1)[0, : FEWEST - 1] = 0.5
    pixels.view(2, -1)[1, :FEWEST] = 0.5
    below, enough = lattice_residual(IMAGES, IMAGES.encode(pixels)).tolist()
    assert isnan(below)
    assert enough == pytest.approx(0.5)


def test_the_nearest_picture_is_found_pixel_by_pixel() -> None:
    pixels = rand((2, *IMAGES.shape), stream(0, "lattice", "nearest"), LIKE) * 1.4 - 0.2
    got = IMAGES.decode(nearest(IMAGES, IMAGES.encode(pixels)))
    levels = torch.arange(256, dtype=torch.float64) / 255
    closest = levels[(pixels[..., None] - levels).abs().argmin(-1)]
    torch.testing.assert_close(got, closest)
    single = IMAGES.encode(pixels).float().flatten(1)
    assert nearest(IMAGES, single).dtype == torch.float32
    assert nearest(IMAGES, single).shape == single.shape


def test_rows_of_a_table_lie_on_the_lattice_and_mixtures_do_not() -> None:
    z = TABLE.encode(rows(6, "one"))
    assert float(lattice_residual(TABLE, z).max()) < 1e-9
    assert float(lattice_residual(TABLE, z.float()).max()) < 1e-3
    moved = 0.63 * z + 0.37 * TABLE.encode(rows(6, "other"))
    got = lattice_residual(TABLE, moved)
    for row, value in zip(moved.tolist(), got, strict=True):
        age, rate, block = row[0] * 13 + 40, (row[1] * 0.5 + 0.2) * 4, row[4:]
        top = max(range(3), key=block.__getitem__)
        category = max(abs(v - (k == top)) for k, v in enumerate(block))
        assert float(value) == pytest.approx(max(abs(age - round(age)), abs(rate - round(rate)), category), abs=1e-9)
    assert float(got.min()) > 0.05


def test_the_nearest_row_is_valid_and_near() -> None:
    wanted = TABLE.encode(rows(4, "near"))
    torch.testing.assert_close(nearest(TABLE, wanted + 1e-6), wanted, atol=3e-6, rtol=0)
    far = nearest(TABLE, wanted + 0.3 * rand(tuple(wanted.shape), stream(0, "lattice", "far"), LIKE))
    assert float(lattice_residual(TABLE, far).max()) < 1e-9


def test_data_without_a_lattice_say_nothing() -> None:
    real = TableSpec((NumericColumn("x", 0.0, 1.0, -3.0, 3.0),))
    assert lattice_residual(real, torch.zeros(2, 1)).isnan().all()
    assert lattice_residual(TokenSpec(4, 9), torch.zeros(2, 4)).isnan().all()
    assert nearest(TokenSpec(4, 9), torch.full((1, 4), 2.4)).tolist() == [[2.0] * 4]


def test_no_example_has_no_residual() -> None:
    assert lattice_residual(TABLE, TABLE.encode(rows(3, "none"))[:0]).shape == (0,)
    assert lattice_residual(ImageSpec((3, 8, 8)), torch.zeros(0, 3, 8, 8)).shape == (0,)
