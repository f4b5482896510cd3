"""What a server knows of defences, merged in the order in which they act."""

import math

import pytest
import torch

from fedspill.core.knowledge import KnownDefence, Knows
from fedspill.core.roles import known_defence
from fedspill.core.types import Update, UpdateKind
from fedspill.defences.clipping import Clipping
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.local_dp import LocalDP
from fedspill.federation.threat import observe
from fedspill.testing.worlds import batch, mlp

PRUNED = KnownDefence(("pruned",), survivors=True)
NOISY = KnownDefence(("noisy",), noise=3.0)
SIGNS = KnownDefence(("signs",), signs=True, scale_free=True)


def test_noise_adds_up_and_names_keep_their_order() -> None:
    both = KnownDefence(("more",), noise=4.0, noise_share=1.0).after(NOISY)
    assert (both.names, both.noise, both.noise_share) == (("noisy", "more"), 5.0, 1.0)


def test_noise_after_pruning_fills_what_was_zero_and_pruning_after_noise_does_not() -> None:
    assert not NOISY.after(PRUNED).survivors
    assert PRUNED.after(NOISY).survivors
    assert PRUNED.after(NOISY).noise == 3.0


def test_signs_hide_the_noise_before_them_and_noise_hides_signs() -> None:
    assert SIGNS.after(NOISY).noise is None
    assert SIGNS.after(NOISY).signs
    assert not NOISY.after(SIGNS).signs
    assert NOISY.after(SIGNS).scale_free


def test_steps_stay_until_something_moves_the_values() -> None:
    rounded = KnownDefence(step={"w": 0.5}, bits=8)
    clipped = KnownDefence(scale_free=True).after(rounded)
    assert (clipped.step, clipped.bits) == (None, 8), "the largest value tells the step also after scaling"
    assert NOISY.after(rounded).bits is None


def test_mixtures_multiply_and_what_is_left_out_adds_up() -> None:
    both = KnownDefence(mixed=2, left_out=frozenset("a")).after(KnownDefence(mixed=3, left_out=frozenset("b")))
    assert (both.mixed, both.left_out) == (6, frozenset("ab"))


def test_the_deviation_of_a_mean_over_clients_and_examples() -> None:
    update = Update(UpdateKind.GRADIENT, {"w": torch.full((4,), 5.0)})
    assert KnownDefence(noise=2.0).deviation(update, 8, clients=4) == 1.0
    assert KnownDefence(noise_of_sum=8.0).deviation(update, 8) == 1.0
    assert KnownDefence(noise_of_sum=8.0).deviation(update, 8, clients=4) == 2.0
    assert KnownDefence(noise_share=0.75).deviation(update, 1) == pytest.approx(3.0), "4^2 + 3^2 = 5^2"
    assert KnownDefence().deviation(update, None) == 0.0


def test_what_the_three_oldest_defences_say_together() -> None:
    known = known_defence([Clipping(), GradientNoise(sigma=2.0), LocalDP(noise_multiplier=1.0)], mlp())
    assert known is not None
    assert known.names == ("clipping", "gradient_noise", "local_dp")
    assert known.noise == pytest.approx(math.sqrt(5))
    assert known.scale_free
    assert known_defence([], mlp()) is None


def test_the_server_holds_it_where_it_is_granted() -> None:
    granted = observe(mlp(), batch(3), 1, None, None, {Knows.DEFENCE}, defence=NOISY)
    assert granted.holds() == {Knows.DEFENCE}
    assert observe(mlp(), batch(3), 1, None, None, set(), defence=NOISY).defence is None
