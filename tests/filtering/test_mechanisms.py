"""Every broken mechanism is caught, and the right one is not."""

from collections.abc import Sequence
from functools import cache

import pytest
from dp_accounting.pld import privacy_loss_distribution

from fedspill.core.model import Model
from fedspill.core.roles import Exposed
from fedspill.core.types import Batch
from fedspill.defences.local_dp import analytic_epsilon
from fedspill.filtering.chains.loading import chain_of
from fedspill.filtering.known import usual_batch, usual_model
from fedspill.filtering.proven import _of_laplace
from fedspill.filtering.verdict import filtered
from fedspill.report.filtering import Filtering
from tests.filtering import mechanisms as of

ALARMS = {
    "right": set(),
    "no_noise": {"noise.none"},
    "integers_unnoised": {"integers.unnoised"},
    "buffers_unnoised": {"buffers.unnoised"},
    "bias_unnoised": {"noise.left_out"},
    "clip_after_noise": {"clip.after_noise", "noise.small"},
    "one_seed_every_round": {"noise.repeated"},
    "one_seed_every_client": {"noise.seeded"},
    "one_noise_for_all_tensors": {"noise.shared"},
    "half_the_noise": {"noise.small"},
    "looser_clip": {"clip.exceeded"},
}


@cache
def world() -> tuple[Model, Batch]:
    model = usual_model()
    return model, usual_batch(model, 1)


def outcome_of(name: str, *, declared: bool = True, seconds: float = 0.0) -> Filtering:
    chain = chain_of(getattr(of, name), name)
    clip, noise = (of.CLIP, of.STD) if declared else (None, None)
    return filtered(chain, name, *world(), clip=clip, noise_std=noise, seconds=seconds)


def alarms(done: Filtering) -> set[str]:
    return {f.rule_id.removeprefix("filters.") for f in done.alarms}


@pytest.mark.parametrize("name", ALARMS)
def test_what_is_broken_is_caught_and_what_is_right_is_not(name: str) -> None:
    done = outcome_of(name)
    assert alarms(done) == ALARMS[name]
    assert done.exit_code == (1 if ALARMS[name] else 0)


@pytest.mark.parametrize("name", ["integers_unnoised", "clip_after_noise", "one_seed_every_round"])
def test_what_is_broken_is_caught_without_a_declaration_too(name: str) -> None:
    assert ALARMS[name] & alarms(outcome_of(name, declared=False))


@pytest.mark.usefixtures("linear_layer_alone")
def test_noise_left_out_is_caught_by_the_attacks_where_nothing_is_declared() -> None:
    done = outcome_of("no_noise", declared=False, seconds=300.0)
    assert {f.rule_id for f in done.alarms} == {"filters.leaks"}
    assert not done.privacy.epsilon
    assert done.privacy.text == "no differential privacy: no noise"


def test_epsilon_is_that_of_the_norm_and_the_noise_that_were_measured() -> None:
    done = outcome_of("right")
    wanted = [analytic_epsilon(of.STD / (2 * of.CLIP) / rounds**0.5, 1e-5) for rounds in (1, 100)]
    assert done.law == "Gaussian"
    assert done.privacy.clip == of.CLIP
    assert done.privacy.noise == pytest.approx(of.STD, rel=0.02)
    assert [done.privacy.epsilon, done.privacy.composed] == pytest.approx(wanted, rel=0.05)
    assert done.privacy.rounds == 100


@pytest.mark.parametrize("name", [name for name in ALARMS if name not in ("right", "half_the_noise", "looser_clip")])
def test_nothing_broken_has_an_epsilon(name: str) -> None:
    assert outcome_of(name).privacy.text.startswith("no differential privacy: ")


def test_less_noise_and_a_looser_norm_have_the_epsilon_that_they_are_worth() -> None:
    half = outcome_of("half_the_noise").privacy
    assert half.epsilon == pytest.approx(analytic_epsilon(of.STD / 4, 1e-5), rel=0.05)
    looser = outcome_of("looser_clip").privacy
    assert looser.clip == pytest.approx(8**0.5, rel=0.05)  # eight tensors of norm 1
    assert looser.epsilon is None


def test_noise_that_grows_with_the_update_is_told() -> None:
    done = outcome_of("relative_noise", declared=False)
    assert "noise.relative" in {f.rule_id.removeprefix("filters.") for f in done.findings}
    assert done.privacy.epsilon is None
    assert "the noise grows with the update" in done.privacy.reasons


def test_laplace_noise_has_the_epsilon_of_the_largest_sum_that_the_norm_admits() -> None:
    done = outcome_of("laplace")
    size = sum(f.size for f in done.fates if f.sent)
    assert done.law == "Laplace"
    assert done.privacy.epsilon == pytest.approx(2 * of.CLIP * size**0.5 / (of.STD / 2**0.5), rel=0.05)


@pytest.mark.parametrize(("size", "rounds"), [(4, 1), (4, 25), (9, 400)])
def test_a_laplace_epsilon_bounds_that_of_the_worst_pair_and_is_no_more_than_its_loss(size: int, rounds: int) -> None:
    """The worst pair differs alike in every value, so that it is that many releases of one value."""
    scale, sensitivity = 20.0, 1.0
    one, composed = _of_laplace(scale * 2**0.5, sensitivity, size, rounds, 1e-5)
    pld = privacy_loss_distribution.from_laplace_mechanism(scale, sensitivity / size**0.5)
    assert one == pytest.approx(sensitivity * size**0.5 / scale)
    assert pld.self_compose(size).get_epsilon_for_delta(1e-9) <= one * (1 + 1e-2)
    assert pld.self_compose(size * rounds).get_epsilon_for_delta(1e-5) <= composed * (1 + 1e-2)
    assert composed <= rounds * one * (1 + 1e-9)


@pytest.mark.usefixtures("linear_layer_alone")
def test_a_server_that_knows_the_chain_and_one_that_asks_again_read_more() -> None:
    model = usual_model()
    few, one = usual_batch(model, 4), usual_batch(model, 1)
    kept = filtered(chain_of(of.largest, "largest"), "largest", model, few, seconds=300.0)
    assert (read(kept.after), read(kept.knowing), kept.averaged) == (0, 1, ())
    assert "leaks.knowing" in alarms(kept)
    loud = filtered(chain_of(of.loud, "loud"), "loud", model, one, pushes=64, seconds=300.0)
    assert (read(loud.after), read(loud.knowing), read(loud.averaged)) == (0, 0, 1)
    assert "leaks.averaged" in alarms(loud)
    same = filtered(chain_of(of.loud_once, "loud_once"), "loud_once", model, one, seconds=300.0)
    assert same.averaged == (), "the same noise in every answer is left in their mean"


def read(attacks: Sequence[Exposed]) -> int:
    return max(int(one.read.sum()) for one in attacks)
