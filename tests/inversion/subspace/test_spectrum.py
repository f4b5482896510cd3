"""The row space of a gradient: its rank, its noise, and rows inside and outside."""

import pytest
import torch
from torch import Tensor

from fedspill.core.rng import randn, stream
from fedspill.inversion.subspace.spectrum import above_noise, last_gap, subspace

LIKE = torch.zeros((), dtype=torch.float64)
OUT, WIDTH = 120, 40


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return randn(shape, stream(seed, "test", "rows", *shape), LIKE)


def gradient(rows: Tensor, spread: float = 1.0) -> Tensor:
    """Of a layer that rows entered, whose outputs pull with sizes that fall by `spread` in all."""
    sizes = torch.logspace(0, float(torch.tensor(spread).log10()), OUT, dtype=torch.float64)
    return sizes[:, None] * (numbers(OUT, len(rows), seed=1) @ rows)


@pytest.mark.parametrize("count", [1, 7, 20, 38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_rank_is_the_number_of_rows(count: int, dtype: torch.dtype) -> None:
    space = subspace(gradient(numbers(count, WIDTH), 1e-4).to(dtype).double(), 1e-16)
    assert not space.full
    assert space.rank == count
    assert space.even


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_inside_lie_outside_by_what_noise_explains(dtype: torch.dtype) -> None:
    rows, others = numbers(10, WIDTH), numbers(500, WIDTH, seed=2)
    space = subspace(gradient(rows).to(dtype).double(), 1e-16)
    inside, outside = space.excess(rows), space.excess(others)
    assert 0.5 < float(inside.min()) < float(inside.max()) < 2
    assert float(outside.min()) > 30


@pytest.mark.parametrize("noise", [1e-3, 0.03, 0.3])
def test_noise_of_one_size_is_measured(noise: float) -> None:
    rows = numbers(8, WIDTH)
    clean = gradient(rows, 1e-3)
    space = subspace(clean + noise * numbers(*clean.shape, seed=3), 1e-16)
    assert space.rank == 8
    assert not space.even or noise < 1e-2
    if not space.even:
        assert space.noise == pytest.approx(noise, rel=0.1)
    assert float(space.excess(rows).max()) < 2
    assert float(space.excess(numbers(100, WIDTH, seed=2)).min()) > 3


def test_as_many_rows_as_the_width_show_no_end() -> None:
    assert subspace(gradient(numbers(WIDTH, WIDTH)), 1e-16).full
    assert subspace(gradient(numbers(60, WIDTH)), 1e-16).full
    assert subspace(gradient(numbers(10 * WIDTH, WIDTH), 1e-2), 1e-16).full
    assert subspace(numbers(OUT, WIDTH), 1e-16).full  # nothing but noise
    assert subspace(torch.zeros(OUT, WIDTH, dtype=torch.float64), 1e-16).full


def test_gaps_and_noise_by_hand() -> None:
    values = torch.tensor([5.0, 3.0, 2.0, 1e-9, 9e-10, 5e-10], dtype=torch.float64)
    assert last_gap(values) == 3
    assert last_gap(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)) is None
    # A quiet row between loud ones and noise is a row.
    assert last_gap(torch.tensor([5.0, 1e-4, 1e-9, 9e-10, 5e-10], dtype=torch.float64)) == 2
    pure = torch.linalg.svdvals(numbers(OUT, WIDTH))
    assert above_noise(pure, torch.Size((OUT, WIDTH))) == 0


def test_the_share_outside_of_unit_rows() -> None:
    rows = torch.eye(WIDTH, dtype=torch.float64)
    space = subspace(gradient(rows[:3]), 1e-16)
    half = (rows[0] + rows[5]) / 2**0.5
    assert space.outside(torch.stack([rows[1], rows[7], half])).tolist() == pytest.approx([0, 1, 0.5**0.5], abs=1e-12)
