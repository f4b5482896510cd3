"""Matching, and scoring of what was matched."""

from itertools import permutations

import pytest
import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, stream
from fedspill.scoring.distances import squared_errors
from fedspill.scoring.match import match
from fedspill.scoring.metrics import MSE, MSSSIM, PSNR
from fedspill.scoring.score import score_all, score_pairs


def images(n: int, name: str, size: int = 6) -> Tensor:
    return rand((n, 3, size, size), stream(0, "test match", name), torch.zeros(()))


def total(cost: Tensor, rows: tuple[int, ...], columns: tuple[int, ...]) -> float:
    return float(cost[list(rows), list(columns)].sum())


@pytest.mark.parametrize(("m", "n"), [(4, 4), (6, 3), (3, 5), (1, 4), (5, 1)])
def test_least_total_over_all_permutations(m: int, n: int) -> None:
    rebuilt, private = images(m, f"rebuilt {m}"), images(n, f"private {n}")
    cost = (rebuilt.double()[:, None] - private.double()[None]).square().sum((2, 3, 4)).sqrt()
    k = min(m, n)
    best = min(
        total(cost, rows, columns)
        for rows in permutations(range(m), k)
        for columns in ([tuple(range(n))] if k == n else permutations(range(n), k))
    )
    i, j = match(rebuilt, private)
    assert len(set(i.tolist())) == len(set(j.tolist())) == k
    assert j.tolist() == sorted(j.tolist())
    assert total(cost, tuple(i.tolist()), tuple(j.tolist())) == pytest.approx(best, rel=1e-12)


def test_an_exact_reconstruction_keeps_its_example() -> None:
    """Squared errors would prefer the swap: 0.51 in all, against 1.01 for the exact pair and a far one."""
    private = torch.tensor([[0.5, 0.1], [0.0, 0.0]])
    rebuilt = torch.tensor([[0.5, 0.1], [1.0, 0.0]])
    squared = squared_errors(rebuilt, private)
    assert squared.diagonal().sum() > squared.fliplr().diagonal().sum()
    assert match(rebuilt, private)[0].tolist() == [0, 1]


def test_squared_errors_do_not_cancel() -> None:
    first = images(3, "cancel") + 1000
    second = first.clone()
    second[0, 0, 0, 0] += 2**-10
    errors = squared_errors(first, second)
    assert errors.diagonal().tolist() == pytest.approx([2**-20, 0, 0], abs=1e-12)


def test_pieces_do_not_change_the_distances() -> None:
    first, second = images(40, "wide a", 120), images(60, "wide b", 120)
    expected = torch.cdist(first.double().flatten(1), second.double().flatten(1)).square()
    torch.testing.assert_close(squared_errors(first, second), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_candidates_that_are_not_finite_are_never_matched(bad: float) -> None:
    private = images(3, "finite")
    rebuilt = private[[2, 0, 1]].clone()
    rebuilt[1, 0, 0, 0] = bad
    i, j = match(rebuilt, private)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(2, 1), (0, 2)]
    assert [len(x) for x in match(rebuilt[1:2], private)] == [0, 0]


def test_a_private_example_that_is_not_finite_is_refused() -> None:
    with pytest.raises(BadInput, match="NaN"):
        match(images(2, "a"), torch.full((2, 3, 6, 6), float("nan")))


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(3, 6, 6\).*\(3, 8, 8\)"):
        match(images(2, "a"), images(2, "b", 8))


def test_labels_break_ties_and_nothing_else() -> None:
    private = images(3, "labels")
    private[1] = private[0]
    rebuilt = private[[0, 1, 2]]
    labels = torch.tensor([4, 7, 1])
    assert match(rebuilt, private, labels[[1, 0, 2]], labels)[0].tolist() == [1, 0, 2]
    assert match(private[[2, 0]], private[[0, 2]], torch.tensor([4, 1]), torch.tensor([4, 1]))[0].tolist() == [1, 0]


def test_tokens_are_matched_by_positions_that_differ() -> None:
    private = torch.tensor([[1, 2, 3, 4], [500, 6, 7, 8]])
    rebuilt = torch.tensor([[500, 6, 7, 9], [900, 2, 3, 4], [0, 0, 0, 0]])
    assert match(rebuilt, private)[0].tolist() == [1, 0]
    labels = torch.tensor([[2, 3], [6, 7]])
    assert match(rebuilt[:2], private, labels, labels)[0].tolist() == [1, 0]


def test_examples_without_a_reconstruction_have_no_value() -> None:
    private = images(4, "score")
    scored = score_all(private[[3, 1]], private, [PSNR(), MSE(), MSSSIM()])
    assert scored.matched == (None, 1, None, 0)
    psnr, mse, ms_ssim = scored.metrics
    assert psnr.listed() == [None, 100, None, 100]
    assert (psnr.summary().mean, psnr.summary().capped) == (100, 2)
    assert mse.listed() == [None, 0, None, 0]
    assert ms_ssim.not_computed is not None
    assert "176" in ms_ssim.not_computed
    assert sorted(scored.values()) == ["mse", "psnr"]
    assert scored.directions() == {"psnr": True, "mse": False, "ms_ssim": True}


def test_no_candidate_at_all() -> None:
    scored = score_all(images(0, "none"), images(2, "some"), [PSNR()])
    assert scored.matched == (None, None)
    assert scored.metrics[0].listed() == [None, None]


def test_pairs_are_scored_as_they_stand() -> None:
    private = images(2, "pairs")
    scored = score_pairs(private[[1, 0]], private, [MSE()])
    expected = (private[0].double() - private[1].double()).square().mean()
    assert scored.metrics[0].values.tolist() == pytest.approx([float(expected)] * 2)
    assert scored.matched == (0, 1)
    with pytest.raises(BadInput, match="matched pairs"):
        score_pairs(private[:1], private, [MSE()])
