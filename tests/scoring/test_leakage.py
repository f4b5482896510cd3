"""Thresholds, intervals, summaries, labels and baselines."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.scoring.baselines import best_public, mean_image
from fedspill.scoring.labels import overlap
from fedspill.scoring.leakage import criterion, leaked, reconstruction_rates, summary, wilson
from fedspill.scoring.metrics import MSE, PSNR, SSIM
from fedspill.scoring.score import score_pairs

NAN = float("nan")


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 40), (1, 3), (7, 40), (39, 40), (40, 40), (500, 10_000)])
def test_wilson_is_that_of_scipy(hits: int, n: int) -> None:
    ends = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits, n) == pytest.approx((hits / n, ends.low, ends.high), abs=1e-14)


@pytest.mark.parametrize(("hits", "n"), [(0, 8), (3, 8), (8, 8), (1, 1), (43, 64), (500, 1000)])
def test_wilson_by_hand(hits: int, n: int) -> None:
    z, p = 1.959963984540054, hits / n
    middle, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    low, high = (middle - half) / (1 + z**2 / n), (middle + half) / (1 + z**2 / n)
    assert wilson(hits, n) == pytest.approx((p, max(low, 0), min(high, 1)), abs=1e-12)


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_refuses(hits: int, n: int) -> None:
    with pytest.raises(BadInput, match=f"{hits} hits of {n}"):
        wilson(hits, n)


def test_an_example_leaks_when_all_thresholds_are_met() -> None:
    values = {"psnr": torch.tensor([25.0, 20, 19, NAN]), "lpips": torch.tensor([0.5, 0.1, 0.05, NAN])}
    up = {"psnr": True, "lpips": False}
    assert leaked(values, {"psnr": 20.0}, up).tolist() == [True, True, False, False]
    assert leaked(values, {"lpips": 0.1}, up).tolist() == [False, True, True, False]
    assert leaked(values, {"psnr": 20.0, "lpips": 0.1}, up).tolist() == [False, True, False, False]


def test_a_threshold_needs_values() -> None:
    with pytest.raises(BadInput, match=r"\['lpips'\].*\['psnr'\]"):
        leaked({"psnr": torch.zeros(1)}, {"lpips": 0.1}, {"psnr": True, "lpips": False})
    with pytest.raises(BadInput, match="no leak threshold"):
        leaked({"psnr": torch.zeros(1)}, {}, {"psnr": True})


def test_reconstruction_rates_count_every_private_image() -> None:
    rates = reconstruction_rates(torch.tensor([0.45, 0.5, 0.9, NAN]))
    assert {k: v.rate for k, v in rates.items()} == {0.4: 0.75, 0.5: 0.5, 0.6: 0.25}
    assert rates[0.5] == wilson(2, 4)
    with pytest.raises(BadInput):
        reconstruction_rates(torch.zeros(0))


def test_the_criterion_in_words() -> None:
    assert criterion({"psnr": 20.0, "mse": 0.001}, [MSE(), PSNR(), SSIM()]) == "psnr >= 20 dB and mse <= 0.001"
    with pytest.raises(BadInput, match=r"\['ssim'\]"):
        criterion({"ssim": 0.5}, [PSNR()])


@pytest.mark.parametrize("higher", [True, False])
def test_summary_leaves_out_what_has_no_value(higher: bool) -> None:
    present = np.array([3.0, 100, 7, 12, 100])
    got = summary(torch.tensor([NAN, *present]), higher, cap=100.0)
    assert got.mean == pytest.approx(present.mean())
    assert got.median == pytest.approx(np.median(present))
    assert got.worst == (100 if higher else 3)
    assert got.capped == 2
    assert got.quantiles is not None
    assert [*got.quantiles] == ["10", "25", "75", "90"]
    assert [*got.quantiles.values()] == pytest.approx([*np.quantile(present, [0.1, 0.25, 0.75, 0.9])])


def test_summary_of_nothing() -> None:
    assert summary(torch.tensor([NAN, NAN]), True).mean is None
    assert summary(torch.zeros(0), True).worst is None


@pytest.mark.parametrize(
    ("inferred", "true", "expected"),
    [
        ([1, 2, 3], [3, 2, 1], 1),
        ([1, 1, 1], [1, 2, 3], 1 / 3),
        ([7, 7], [1, 2], 0),
        ([1, 2, 2], [2, 2, 2, 1], 3 / 4),
        (list(range(10)), [4, 5], 2 / 10),
        ([], [1], 0),
    ],
)
def test_label_overlap(inferred: list[int], true: list[int], expected: float) -> None:
    got = overlap(torch.tensor(inferred, dtype=torch.int64), torch.tensor(true))
    assert got == pytest.approx(expected)


def test_label_overlap_refuses() -> None:
    with pytest.raises(BadInput, match="0 true labels"):
        overlap(torch.tensor([1]), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(BadInput, match="whole numbers"):
        overlap(torch.tensor([0.5]), torch.tensor([1]))


def batch(n: int, name: str) -> Batch:
    images = rand((n, 3, 5, 5), stream(0, "test baselines", name), torch.zeros(()))
    return Batch(images, torch.zeros(n, dtype=torch.int64))


def test_mean_image_minimises_the_error_over_public_data() -> None:
    public = batch(50, "public")
    guess = mean_image(ImageSpec((3, 5, 5)), 4, public)
    torch.testing.assert_close(guess, public.inputs.mean(0).expand(4, -1, -1, -1))


def test_mean_image_without_public_data() -> None:
    spec = ImageSpec((3, 5, 5), mean=(0.2, 0.4, 0.6), std=(0.1, 0.1, 0.1))
    assert mean_image(spec, 2)[1, :, 0, 0].tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert mean_image(ImageSpec((1, 4, 4)), 3).unique().tolist() == [0.5]
    with pytest.raises(BadInput, match=r"\(3, 5, 5\).*\(1, 4, 4\)"):
        mean_image(ImageSpec((1, 4, 4)), 1, batch(2, "shape"))


def test_best_public_is_the_closest_for_each() -> None:
    public, private = batch(30, "public"), batch(6, "private").inputs
    private[3] = public.inputs[17]
    guess = best_public(public, private)
    errors = (public.inputs[:, None] - private[None]).square().flatten(2).mean(2)
    scored = score_pairs(guess, private, [MSE()])
    torch.testing.assert_close(scored.metrics[0].values, errors.amin(0).double(), rtol=1e-5, atol=1e-9)
    assert torch.equal(guess[3], private[3])


def test_best_public_refuses_tokens_for_images() -> None:
    tokens = torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(BadInput, match="of one kind"):
        best_public(Batch(tokens, tokens[:, 0]), torch.zeros(2, 4))
