"""What is said of the error of a solution, against errors that are known."""

import pytest
import torch
from torch import Tensor

from fedspill.core.rng import randn, stream
from fedspill.inversion.disaggregation.certificate.spaces import Space, redrawn_spaces
from fedspill.inversion.disaggregation.certificate.zeros import mixed_in
from fedspill.inversion.disaggregation.readout import Disaggregated, disaggregate
from fedspill.inversion.disaggregation.silent import disturbed, scatter
from tests.support.heads import LIKE, Seen, seen

ROUNDED = 1e-12


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return randn(shape, stream(seed, "test", "certificate"), LIKE)


def told(of: Seen, rows: Tensor) -> Disaggregated:
    return disaggregate(
        rows, of.weight, of.bias, of.labels, non_negative=True, rng=stream(0, "test", "starts"), noise=ROUNDED
    )


def off(of: Seen, got: Disaggregated) -> Tensor:
    """Error of each true example over its distance from the mean of all."""
    apart = (of.features - of.features.mean(0)).norm(dim=1)
    return torch.cdist(of.features, got.features).min(1).values / apart


def test_zeros_bound_what_may_be_mixed_in() -> None:
    features = drawn(3, 200).relu()
    wrong = features.clone()
    wrong[0] += 1e-5 * (features[1] - features[0])
    true = 1e-5 * (features[1] - features[0]).norm() / (wrong[0] - wrong.mean(0)).norm()
    found = mixed_in(wrong)
    assert true < found[0] < 5 * true
    assert bool((found[1:] < 1e-9).all())


def test_features_at_which_all_examples_are_zero_pin_none_of_them_down() -> None:
    dead = torch.cat([drawn(3, 10).abs(), LIKE.new_zeros(3, 100)], 1)
    assert bool(mixed_in(dead).isinf().all())


def test_zeros_that_two_examples_share_do_not_tell_these_apart() -> None:
    features = drawn(3, 200).relu()
    features[1] = features[1].abs() * (features[0] > 0)
    found = mixed_in(features)
    assert bool(found[:2].isinf().all()) is False
    assert float(found[0]) == float("inf")


def test_the_scatter_is_that_of_the_noise() -> None:
    rows = drawn(30, 3) @ drawn(3, 80, seed=1) + 0.01 * drawn(30, 80, seed=2)
    assert scatter(rows, 3) == pytest.approx(0.01, rel=0.1)


def test_noise_shows_in_the_sum_over_classes_where_there_are_as_many_examples_as_can_be() -> None:
    of = seen([0, 1, 2, 3, 4, 5, 6, 7, 8])
    clean = torch.linalg.svdvals(of.rows)
    noised = torch.linalg.svdvals(of.rows + 1e-3 * drawn(*of.rows.shape))
    assert disturbed(clean, 9) < 1e-12
    assert disturbed(noised, 9) > 1e-3


@pytest.mark.parametrize("labels", [[1, 4, 7], [1, 4, 4]])
def test_the_error_that_is_expected_is_the_one_that_noise_makes(labels: list[int]) -> None:
    of = seen(labels)
    level = 1e-6 * of.rows.square().mean().sqrt()
    true, expected = list[Tensor](), list[Tensor]()
    for k in range(6):
        got = told(of, of.rows + level * drawn(*of.rows.shape, seed=k))
        assert got.redrawn is not None
        order = torch.cdist(of.features, got.features).argmin(1)
        expected.append(got.redrawn.spread(got.features)[order])
        true.append(off(of, got))
    ratio = torch.stack(true).square().mean(0).sqrt() / torch.stack(expected).square().mean(0).sqrt()
    assert bool((ratio > 0.2).all())
    assert bool((ratio < 2).all())


def test_what_noise_moves_too_far_is_not_certain() -> None:
    of = seen([1, 4, 4, 7])
    for share in (1e-9, 1e-6, 1e-4, 1e-2):
        got = told(of, of.rows + share * of.rows.square().mean().sqrt() * drawn(*of.rows.shape))
        wrong = (
            torch.cdist(got.features, of.features).min(1).values / (of.features - of.features.mean(0)).norm(dim=1).min()
        )
        assert not bool((got.certain & (wrong > 1e-3)).any())
        assert share > 1e-9 or bool(got.certain.all())
        assert share < 1e-2 or not bool(got.certain.all())


def test_a_time_that_is_up_leaves_nothing_certain() -> None:
    of, asked = seen([1, 4, 7]), 0

    def is_up() -> bool:
        nonlocal asked
        asked += 1
        return asked > 60

    got = disaggregate(
        of.rows, of.weight, of.bias, of.labels, non_negative=True, rng=stream(0, "t"), noise=ROUNDED, is_up=is_up
    )
    assert got.redrawn is None
    assert not bool(got.certain.any())


def test_a_row_space_with_fresh_noise_moves_as_that_of_the_whole_gradient_does() -> None:
    delta, inputs, noise = drawn(3, 40), drawn(3, 60, seed=1), 0.05

    def moved(basis: Tensor) -> Tensor:
        return (inputs - inputs @ basis.T @ basis).square().mean()

    found = torch.stack([moved(s.basis) for s in redrawn_spaces(delta, inputs, noise, 20)]).mean()
    whole = [Space.of(delta.T @ inputs + noise * drawn(40, 60, seed=k), 3) for k in range(20)]
    assert float(found) == pytest.approx(float(torch.stack([moved(s.basis) for s in whole]).mean()), rel=0.2)
    assert whole[0].noise == pytest.approx(noise, rel=0.1)
    seen_there = torch.stack([(s.seen - delta.T @ (inputs @ s.basis.T)).std() for s in whole]).mean()
    assert float(seen_there) == pytest.approx(noise, rel=0.3)
