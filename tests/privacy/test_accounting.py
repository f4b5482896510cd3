"""Epsilon, with what it is about; noise calibration; what a chain of defences comes to."""

import math

import pytest

from fedspill import BadInput
from fedspill.defences.clipping import Clipping
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.local_dp import LocalDP
from fedspill.privacy import libraries
from fedspill.privacy.accounting import pure_epsilon, spent
from fedspill.privacy.gaussian import analytic_epsilon, analytic_sigma, log_delta
from fedspill.privacy.release import Release, Step, chained

SIGMAS = {1: 3.731, 2: 1.994, 4: 1.081, 8: 0.600, 10: 0.500, 20: 0.290, 50: 0.150}
ONE = Release(reach=1.0, noise=1.0, relation="add-or-remove")


@pytest.mark.parametrize(("epsilon", "sigma"), SIGMAS.items())
def test_the_noise_of_an_epsilon(epsilon: int, sigma: float) -> None:
    assert analytic_sigma(float(epsilon), 1e-5) == pytest.approx(sigma, abs=6e-4)


@pytest.mark.parametrize("epsilon", [100, 500, 1000])
def test_the_noise_of_a_large_epsilon_to_three_digits(epsilon: int) -> None:
    expected = {100: 0.0947, 500: 0.0361, 1000: 0.0246}[epsilon]
    assert analytic_sigma(float(epsilon), 1e-5) == pytest.approx(expected, rel=2e-3)


def test_replacement_reaches_twice_as_far() -> None:
    replaced = Release(1.0, 2.0, relation="replacement")
    assert replaced.sensitivity == 2.0
    assert spent(replaced).epsilon == pytest.approx(spent(ONE).epsilon, rel=1e-12)


@pytest.mark.parametrize("rounds", [1, 4, 100])
def test_the_closed_form_of_many_rounds_is_what_dp_accounting_composes(rounds: int) -> None:
    import dp_accounting

    release = Release(1.0, 5.0, relation="add-or-remove")
    accountant = dp_accounting.pld.PLDAccountant()
    accountant.compose(dp_accounting.GaussianDpEvent(5.0), rounds)
    assert spent(release, rounds=rounds).epsilon == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-4)


def test_renyi_divergences_are_an_upper_bound_near_by() -> None:
    told = spent(ONE, rounds=10)
    loose = spent(ONE, rounds=10, accountant="rdp")
    assert told.epsilon < loose.epsilon < 1.15 * told.epsilon
    assert (told.accountant, loose.accountant) == ("closed form", "rdp")


def test_one_sampled_release_by_its_own_hockey_stick() -> None:
    # delta(eps) of the mixture (1-q) N(0,1) + q N(1,1) against N(0,1), where its likelihood ratio passes e^eps
    q, told = 0.1, spent(ONE, sampling=0.1)
    inner = math.log((math.exp(told.epsilon) - 1 + q) / q)
    delta = q * math.exp(log_delta(1.0, inner))
    assert told.accountant == "pld"
    assert delta == pytest.approx(1e-5, rel=2e-3)


def test_sampling_helps_and_rounds_cost() -> None:
    epsilons = [spent(ONE, rounds=r, sampling=q).epsilon for r, q in ((1, 0.1), (4, 0.1), (4, 1.0))]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] < spent(ONE).epsilon


def test_laplace_noise_is_pure() -> None:
    # a scale of 1 is a standard deviation of sqrt(2)
    release = Release(1.0, math.sqrt(2), "laplace", relation="add-or-remove")
    assert spent(release).epsilon == pytest.approx(1.0)
    assert pure_epsilon(release, 0.1) == pytest.approx(math.log(1 + 0.1 * (math.e - 1)))
    assert 1.0 < spent(release, rounds=4).epsilon <= 4.0 + 1e-9


def test_it_is_told_with_all_that_it_means_nothing_without() -> None:
    said = spent(Release(0.5, 1.0, unit="example"), rounds=3).sentence
    for word in ("one example", "replacement", "sensitivity 1,", "delta 1e-05", "3 releases", "closed form"):
        assert word in said


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"sampling": 0.0},
        {"sampling": 1.5},
        {"delta": 1.0},
        {"delta": 0.0},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        spent(ONE, **wrong)


def test_sampling_is_of_add_or_remove() -> None:
    with pytest.raises(BadInput, match="add-or-remove"):
        spent(Release(1.0, 1.0), sampling=0.5)


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_a_release_without_noise_is_none(noise: float) -> None:
    with pytest.raises(BadInput, match="noise"):
        Release(1.0, noise)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"dp-accounting is needed.*fedspill\[privacy\]"):
        spent(ONE, rounds=7, sampling=0.25)


def test_local_dp_alone() -> None:
    defence = LocalDP(clip=2.0, epsilon=4.0)
    chain = chained([("local_dp", defence.step(8))], size=10)
    assert chain.release is not None
    assert (chain.release.reach, chain.release.sensitivity) == (2.0, 4.0)
    assert spent(chain.release).epsilon == pytest.approx(4.0, rel=1e-8)
    assert (chain.noise, chain.clip) == (defence.noise(), 2.0)


def test_clipping_and_then_noise_make_a_mechanism() -> None:
    steps = [
        ("clipping", Clipping(3.0).step(1)),
        ("gradient_noise", GradientNoise(6.0, distribution="gaussian").step(1)),
    ]
    chain = chained(steps, size=10)
    assert chain.release is not None
    assert spent(chain.release).epsilon == pytest.approx(analytic_epsilon(1.0, 1e-5))


def test_laplace_noise_behind_euclids_norm_reaches_by_the_root_of_the_values() -> None:
    chain = chained([("c", Clipping(1.0).step(1)), ("n", GradientNoise(1.0).step(1))], size=100)
    assert chain.release is not None
    assert chain.release.reach == 10.0
    assert chain.noise is None  # the Fisher information here is of Gaussian noise


NOISE = ("n", Step(noise=1.0))
CLIP = ("c", Step(norm=1.0))


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([], "no defence adds noise"),
        ([CLIP], "no defence adds noise"),
        ([NOISE], "nothing clips"),
        ([NOISE, CLIP], "nothing clips"),
        ([CLIP, ("x", None), NOISE], "nothing clips"),
        ([CLIP, ("x", Step()), NOISE], "nothing clips"),
        ([CLIP, NOISE, ("x", None)], "x comes after the noise"),
        ([CLIP, ("n", Step(noise=None))], "depends on the data"),
    ],
    ids=str,
)
def test_chains_of_which_nothing_is_proven(steps: list, reason: str) -> None:
    chain = chained(steps, size=10)
    assert chain.release is None
    assert reason in chain.reason


@pytest.mark.parametrize(
    "steps", [[("x", None), CLIP, NOISE], [CLIP, NOISE, ("x", Step())], [CLIP, NOISE, CLIP]], ids=str
)
def test_chains_that_what_stands_before_or_behind_does_not_spoil(steps: list) -> None:
    chain = chained(steps, size=10)
    assert chain.release is not None
    assert chain.release.reach == 1.0


def test_statistics_that_no_noise_covers_undo_it() -> None:
    assert "BatchNorm" in chained([CLIP, NOISE], size=10, buffers=True).reason
    assert chained([("l", LocalDP().step(1))], size=10, buffers=True).release is not None


def test_noise_without_clipping_still_bounds_estimates() -> None:
    assert chained([NOISE], size=10).noise == 1.0
    assert chained([("x", None), NOISE], size=10).noise is None  # x may be anything
