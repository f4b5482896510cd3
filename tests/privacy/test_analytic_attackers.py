"""Closed forms against the estimates themselves."""

import math

import numpy as np
import pytest

from fedspill import BadInput
from fedspill.privacy.analytic_attackers import NoisyEstimate, divided_by_bias, sent_bare

RNG = np.random.default_rng(0)
X = RNG.random(6)
LENGTH = float(np.linalg.norm(X))


def errors(estimates: np.ndarray) -> np.ndarray:
    return ((estimates - X) ** 2).mean(1)


def assert_alike(told: NoisyEstimate, errors: np.ndarray) -> None:
    assert told.mse == pytest.approx(errors.mean(), rel=0.02)
    for level in np.quantile(errors, [0.05, 0.5, 0.95]):
        assert told.mse_below(float(level)) == pytest.approx((errors <= level).mean(), abs=0.01)
    assert told.median_psnr() == pytest.approx(float(np.median(-10 * np.log10(errors))), abs=0.1)


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_record_that_is_sent_bare(rounds: int) -> None:
    clip, noise = LENGTH / 3, 0.02
    seen = X / 3 + noise * RNG.standard_normal((40_000, rounds, 6))
    told = sent_bare(6, LENGTH, clip=clip, noise=noise, rounds=rounds)
    assert told.variance == pytest.approx((noise / clip * LENGTH) ** 2 / rounds)  # sigma^2 ||x||^2
    assert_alike(told, errors(3 * seen.mean(1)))


def test_a_short_record_is_not_scaled() -> None:
    assert sent_bare(6, 0.5, clip=1.0, noise=0.1).variance == pytest.approx(0.01)


def test_rows_divided_by_their_biases_and_weighed() -> None:
    biases, noise = np.array([1.0, -0.5, 0.25]), 0.003
    weights = biases[:, None] * X + noise * RNG.standard_normal((40_000, 3, 6))
    divisors = biases + noise * RNG.standard_normal((40_000, 3))
    share = (biases**2 / (biases**2).sum())[:, None]
    told = divided_by_bias(6, LENGTH, biases.tolist(), noise=noise)
    assert not told.weak
    assert_alike(told, errors((share * weights / divisors[:, :, None]).sum(1)))
    with_known = (weights * biases[:, None]).sum(1) / (biases**2).sum()
    assert_alike(divided_by_bias(6, LENGTH, biases.tolist(), noise=noise, known=True), errors(with_known))


def test_more_rows_never_hurt_and_the_weak_is_named() -> None:
    one, two = (divided_by_bias(6, 1.0, [0.1] * k, noise=0.01) for k in (1, 2))
    assert two.mse == pytest.approx(one.mse / 2)
    assert divided_by_bias(6, 1.0, [0.01], noise=0.01).weak
    assert not divided_by_bias(6, 1.0, [0.01], noise=0.01, known=True).weak


def test_many_weak_rows_are_named_where_their_mean_is_worse_than_said() -> None:
    for noise, weak in ((1e-4, False), (2e-2, True)):
        biases = np.full(64, 0.02)
        weights = biases[:, None] * X + noise * RNG.standard_normal((2_000, 64, 6))
        divisors = biases + noise * RNG.standard_normal((2_000, 64))
        read = (weights * divisors[:, :, None]).sum(1) / (divisors**2).sum(1)[:, None]
        told = divided_by_bias(6, LENGTH, biases.tolist(), noise=noise)
        assert told.weak == weak
        assert (errors(read).mean() < 1.26 * told.mse) != weak


def test_a_single_value() -> None:
    told = NoisyEstimate(1, 0.04, stretch=4.0)
    assert told.mse_below(0.16) == pytest.approx(math.erf(1 / math.sqrt(2)), abs=1e-9)  # one deviation of 0.4


@pytest.mark.parametrize(
    "call",
    [
        lambda: sent_bare(6, 1.0, clip=0.0, noise=0.1),
        lambda: sent_bare(6, 1.0, clip=1.0, noise=0.0),
        lambda: divided_by_bias(6, 1.0, [], noise=0.1),
        lambda: divided_by_bias(6, 1.0, [0.0], noise=0.1),
        lambda: NoisyEstimate(0, 1.0),
        lambda: NoisyEstimate(1, math.nan),
    ],
)
def test_what_makes_no_sense_is_refused(call) -> None:
    with pytest.raises(BadInput):
        call()
