"""Broken mechanisms are caught by playing against them, and honest ones are left alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch

from fedspill import BadInput, FedSGD, Update, UpdateKind
from fedspill.core.rng import randn, stream
from fedspill.core.roles import ClientContext
from fedspill.defences.local_dp import LocalDP
from fedspill.privacy.empirical import chance_of_guesses, epsilon_of_rates, mu_of_rates, one_run, played, upper_rate
from fedspill.privacy.gaussian import analytic_sigma
from fedspill.privacy.mechanisms import clipped, noised
from fedspill.testing.worlds import batch as examples
from fedspill.testing.worlds import mlp

CLIP, EPSILON, DELTA = 1.0, 2.0, 1e-5
SIGMA = analytic_sigma(EPSILON, DELTA) * 2 * CLIP
BASE = torch.tensor([0.3, -0.2, 0.1, 0.0, 0.4], dtype=torch.float64)
Mechanism = Callable[[Update, torch.Generator, int], Update]


def batch(present: bool, length: float = 50.0) -> Update:
    """The neighbouring batches: an update, and its opposite with a canary that is far longer than the clip."""
    values = (
        length * torch.eye(5, dtype=torch.float64)[0] if present else -length * torch.eye(5, dtype=torch.float64)[0]
    )
    counts = torch.tensor([8 if present else 7])
    return Update(UpdateKind.GRADIENT, {"w": BASE + values}, {"num_batches": counts})


def honest(update: Update, rng: torch.Generator, trial: int) -> Update:
    return replace(noised(clipped(update, CLIP), SIGMA, "gaussian", rng), buffers=None)


def without_noise(update: Update, rng: torch.Generator, trial: int) -> Update:
    return replace(clipped(update, CLIP), buffers=None)


def clips_after(update: Update, rng: torch.Generator, trial: int) -> Update:
    return replace(clipped(noised(update, SIGMA, "gaussian", rng), CLIP), buffers=None)


def bare_buffers(update: Update, rng: torch.Generator, trial: int) -> Update:
    return noised(clipped(update, CLIP), SIGMA, "gaussian", rng)


def one_seed(update: Update, rng: torch.Generator, trial: int) -> Update:
    return honest(update, stream(trial, "the same in every round"), trial)


def half_the_noise(update: Update, rng: torch.Generator, trial: int) -> Update:
    return replace(noised(clipped(update, CLIP), SIGMA / 4, "gaussian", rng), buffers=None)


def game(mechanism: Mechanism, rounds: int) -> Callable[[bool, int], Sequence[Update]]:
    """The canary is in the first round alone, so that one round is what is spent."""

    def play(present: bool, trial: int) -> list[Update]:
        rng = stream(trial, "noise", str(present))
        return [mechanism(batch(present and not number), rng, trial + 10_000 * present) for number in range(rounds)]

    return play


BROKEN = [without_noise, clips_after, bare_buffers, one_seed, half_the_noise]
DIFFERENCE = Update(UpdateKind.GRADIENT, {"w": 2 * torch.eye(5, dtype=torch.float64)[0]})


@pytest.mark.parametrize("mechanism", BROKEN, ids=lambda m: m.__name__)
def test_a_broken_mechanism_is_caught(mechanism: Mechanism) -> None:
    told = played(game(mechanism, 2), 200, delta=DELTA)
    assert told.contradicts(EPSILON), told


@pytest.mark.parametrize("mechanism", [without_noise, bare_buffers, one_seed], ids=lambda m: m.__name__)
def test_counting_alone_catches_what_is_bare(mechanism: Mechanism) -> None:
    told = played(game(mechanism, 2), 200, delta=DELTA)
    assert told.contradicts(EPSILON, gaussian=False)
    assert (told.false_positives, told.false_negatives) == (0, 0)


@pytest.mark.parametrize("rounds", [1, 2])
def test_an_honest_one_is_not(rounds: int) -> None:
    difference = DIFFERENCE if rounds == 1 else None
    told = played(game(honest, rounds), 200, difference=difference, delta=DELTA)
    assert not told.contradicts(EPSILON), told
    assert told.epsilon <= EPSILON


def test_much_of_what_an_honest_one_spends_is_seen() -> None:
    # updates that lie 2 C apart under noise of SIGMA: mu is 2 C / SIGMA = 0.50
    told = played(game(honest, 1), 1200, difference=DIFFERENCE, delta=DELTA)
    assert 0.25 < told.mu < 2 * CLIP / SIGMA


def test_the_defence_itself_is_honest() -> None:
    defence = LocalDP(clip=CLIP, epsilon=EPSILON, delta=DELTA)
    protect = defence.stages().protect
    context = ClientContext(mlp(), examples(1), FedSGD())  # which the defence does not look at

    def play(present: bool, trial: int) -> list[Update | None]:
        return [protect(batch(present), context, stream(trial, str(present)))]

    assert not played(play, 200, difference=DIFFERENCE, delta=DELTA).contradicts(EPSILON)


def test_a_defence_that_withholds_by_the_canary_is_caught() -> None:
    def play(present: bool, trial: int) -> list[Update | None]:
        return [None if present else honest(batch(False), stream(trial), trial)]

    assert played(play, 100).contradicts(EPSILON, gaussian=False)


def test_trials_of_different_make_are_refused() -> None:
    def play(present: bool, trial: int) -> list[Update]:
        return [honest(batch(present), stream(trial), trial)] * (1 + present)

    with pytest.raises(BadInput, match="same tensors"):
        played(play, 50)


def test_rates_by_hand() -> None:
    assert upper_rate(0, 100, 0.95) == pytest.approx(1 - 0.025**0.01)
    assert upper_rate(100, 100, 0.95) == 1.0
    assert epsilon_of_rates(0.1, 0.1, 0.0) == pytest.approx(torch.log(torch.tensor(9.0)).item())
    assert epsilon_of_rates(0.5, 0.5, 0.0) == 0.0
    assert mu_of_rates(0.158655253931457, 0.158655253931457) == pytest.approx(2.0)
    assert mu_of_rates(1.0, 0.0) == 0.0


def scored(sigma: float, canaries: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """One release: a sum of orthogonal canaries of norm 1, and noise; scores are projections."""
    included = torch.randint(0, 2, (canaries,), generator=stream(0, "coins")).bool()
    noise = sigma * randn((canaries,), stream(0, "noise"), torch.zeros(1, dtype=torch.float64))
    return included + noise, included


def test_one_run_catches_what_forgot_its_noise() -> None:
    told = one_run(*scored(0.0), 400, delta=1e-5)
    assert told > 3.5


def test_one_run_leaves_an_honest_one_alone() -> None:
    sigma = analytic_sigma(2.0, 1e-5)
    told = one_run(*scored(sigma), 100, delta=1e-5)
    assert 0.1 < told < 2.0


def test_its_chance_is_exact_where_delta_is_0() -> None:
    assert chance_of_guesses(10, 10, 10, 0.0, 0.0) == pytest.approx(2.0**-10)
    assert chance_of_guesses(10, 10, 0, 1.0, 0.0) == 1.0


@pytest.mark.parametrize("wrong", [{"trials": 10}, {"delta": 0.0}, {"confidence": 0.3}], ids=str)
def test_values_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        played(game(honest, 1), **{"trials": 50, **wrong})


@pytest.mark.parametrize("guesses", [0, 3, 500])
def test_guesses_are_even_and_not_more_than_canaries(guesses: int) -> None:
    with pytest.raises(BadInput, match="guesses"):
        one_run(*scored(1.0), guesses, delta=1e-5)
