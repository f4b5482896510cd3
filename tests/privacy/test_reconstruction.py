"""The bound on rebuilding against its published values, riskcal, exact attackers and brute force."""

import math

import numpy as np
import pytest
from scipy import stats

from fedspill import BadInput
from fedspill.privacy.accounting import loss_distribution
from fedspill.privacy.gaussian import analytic_sigma
from fedspill.privacy.reconstruction import (
    GaussianPrior,
    _by_profile,
    gaussian_success,
    psnr_ceiling,
    psnr_success,
    pure_success,
    robustness,
    trade_off,
)
from fedspill.privacy.release import Release

ONE = Release(reach=1.0, noise=1.0, relation="add-or-remove")


@pytest.mark.parametrize(
    ("prior", "sigma", "bound"),
    [
        (0.1, 4.0, 0.151),
        (0.1, 1.0, 0.389),
        (0.1, 0.5, 0.764),
        (1e-3, 4.0, 0.0023),
        (1e-3, 1.0, 0.018),
        (1e-3, 0.5, 0.138),
        (1e-3, 0.25, 0.82),
        (1e-6, 0.25, 0.226),
    ],
)
def test_the_values_of_one_release(prior: float, sigma: float, bound: float) -> None:
    unit = 10 ** -len(str(bound).partition(".")[2])
    assert robustness(Release(1.0, sigma), prior).success == pytest.approx(bound, abs=unit / 2)


@pytest.mark.parametrize(
    ("epsilon", "mu", "bounds"),
    [
        (1, 0.268, (0.155, 0.020, 0.0024)),
        (8, 1.666, (0.650, 0.255, 0.077)),
        (16, 2.905, (0.948, 0.719, 0.427)),
        (32, 4.880, (1.000, 0.995, 0.963)),  # the first term of delta alone would give 4.801
    ],
)
def test_the_table_by_epsilon(epsilon: int, mu: float, bounds: tuple) -> None:
    release = Release(1.0, analytic_sigma(float(epsilon), 1e-5), relation="add-or-remove")
    told = [robustness(release, prior) for prior in (0.1, 0.01, 0.001)]
    assert told[0].mu == pytest.approx(mu, abs=6e-4)
    assert [t.success for t in told] == pytest.approx(bounds, abs=6e-4)


@pytest.mark.parametrize("prior", [0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("mu", [0.1, 1.0, 5.0])
def test_riskcal_has_the_same_closed_form(prior: float, mu: float) -> None:
    from riskcal.analysis import get_beta_from_gdp

    assert gaussian_success(prior, mu) == pytest.approx(1 - float(get_beta_from_gdp(mu, prior)), abs=1e-12)


@pytest.mark.parametrize("prior", [0.1, 1e-3, 1e-6])
def test_the_curve_of_a_loss_distribution_is_the_closed_form(prior: float) -> None:
    exact = gaussian_success(prior, 2.0)
    assert exact <= _by_profile(ONE, prior, 4, 1.0) + 1e-9 <= exact + 1e-8
    assert 1 - trade_off(ONE, prior, rounds=4) == pytest.approx(exact, abs=1e-4)


def test_one_sampled_release_by_its_most_powerful_test() -> None:
    # the likelihood ratio of (1-q) N(0,1) + q N(1,1) rises with what is released
    told = robustness(ONE, 1e-3, sampling=0.3)
    assert told.success == pytest.approx(0.7 * 1e-3 + 0.3 * gaussian_success(1e-3, 1.0), abs=1e-6)
    assert told.mu is None


def test_rounds_add_up_by_their_root() -> None:
    many = robustness(Release(1.0, 4.0), 0.1, rounds=16)
    assert many.mu == pytest.approx(1.0)
    assert many.success == pytest.approx(gaussian_success(0.1, 1.0))


def test_sampled_rounds_lie_between_one_and_all_and_over_the_exact_attacker() -> None:
    told = robustness(ONE, 0.1, rounds=3, sampling=0.5).success
    assert robustness(ONE, 0.1, sampling=0.5).success < told < robustness(ONE, 0.1, rounds=3).success
    rng = np.random.default_rng(0)
    without, inside = rng.standard_normal((3, 100_000)), rng.random((3, 100_000)) < 0.5
    within = rng.standard_normal((3, 100_000)) + inside
    ratio = [np.log(0.5 + 0.5 * np.exp(x - 0.5)).sum(0) for x in (without, within)]
    power = float((ratio[1] > np.quantile(ratio[0], 0.9)).mean())
    assert power == pytest.approx(told, abs=8e-3)


@pytest.mark.parametrize("relation", ["add-or-remove", "replacement"])
def test_the_reach_counts_once_whatever_epsilon_is_about(relation: str) -> None:
    assert robustness(Release(1.0, 1.0, relation=relation), 0.1).mu == 1.0


def test_the_best_attacker_of_two_opposite_updates_keeps_below() -> None:
    # candidates +1 and -1, the best attacker takes the sign: right with Phi(1 / sigma)
    for sigma in (0.3, 1.0, 3.0):
        assert stats.norm.cdf(1 / sigma) <= robustness(Release(1.0, sigma), 0.5).success + 1e-15


def test_the_best_attacker_of_ten_orthogonal_updates_keeps_below() -> None:
    rng = np.random.default_rng(1)
    for sigma in (0.25, 0.5, 1.0):
        seen = np.eye(10)[0] + sigma * rng.standard_normal((20_000, 10))
        right = float((seen.argmax(1) == 0).mean())
        assert right < robustness(Release(1.0, sigma), 0.1).success


def test_no_noise_worth_the_name_bounds_nothing_and_much_leaves_the_prior() -> None:
    assert robustness(Release(1.0, 1e-3), 1e-6).success == 1.0
    assert robustness(Release(1.0, 1e6), 1e-6).success == pytest.approx(1e-6, rel=1e-4)


def test_laplace_noise_by_epsilon() -> None:
    release = Release(1.0, math.sqrt(2), "laplace")
    assert robustness(release, 1e-3).success == pytest.approx(1e-3 * math.e)
    assert pure_success(0.9, 1.0) == pytest.approx(1 - 0.1 / math.e)
    assert robustness(release, 1e-3, rounds=2).success <= 1e-3 * math.e**2 + 1e-9


@pytest.mark.parametrize("prior", [0.0, 1.0, -0.1, math.nan])
def test_a_prior_that_is_no_probability_is_refused(prior: float) -> None:
    with pytest.raises(BadInput, match="prior"):
        robustness(ONE, prior)


def test_the_guess_of_the_mean_by_its_distribution() -> None:
    prior = GaussianPrior(size=12, spread=0.2)
    for psnr in (5.0, 15.0, 30.0):
        exact = stats.chi2(12).logcdf(12 * 10 ** (-psnr / 10) / 0.04)
        assert prior.log_guess(psnr) == pytest.approx(exact, rel=1e-9)


def test_the_guess_below_all_floats() -> None:
    mpmath = pytest.importorskip("mpmath")
    prior = GaussianPrior(size=3072, spread=0.25)
    exact = mpmath.log(mpmath.gammainc(1536, 0, mpmath.mpf(1536) * mpmath.mpf(10) ** -3 / 0.0625, regularized=True))
    assert prior.log_guess(30.0) == pytest.approx(float(exact), rel=1e-6)


def test_the_best_attacker_of_a_record_sent_bare_keeps_below_the_ceiling() -> None:
    # what is sent is the record itself, cut to the reach; its posterior mean is the best estimate
    rng, prior, sigma = np.random.default_rng(2), GaussianPrior(4, 0.3), 0.2
    x = 0.3 * rng.standard_normal((50_000, 4))
    sent = x * np.minimum(1, 0.5 / np.linalg.norm(x, axis=1, keepdims=True))
    seen = sent + sigma * rng.standard_normal(x.shape)
    psnr = -10 * np.log10(((seen * 0.09 / (0.09 + sigma**2) - x) ** 2).mean(1))
    for level in (10.0, 15.0, 20.0):
        assert float((psnr >= level).mean()) <= psnr_success(level, prior, 0.5 / sigma)


def test_the_ceiling_is_where_the_chance_is_met() -> None:
    prior = GaussianPrior(3072, 0.25)
    top = psnr_ceiling(prior, 1.666)
    assert psnr_success(top, prior, 1.666) == pytest.approx(0.01, rel=1e-3)
    assert 12.0 < top < 12.6
    assert psnr_ceiling(prior, 1e4) == math.inf


def test_loss_distributions_are_kept() -> None:
    assert loss_distribution(ONE, 4) is loss_distribution(ONE, 4)
