"""Matching is 0 at the truth; the search keeps the lowest objective and goes on where it was broken off."""

from dataclasses import replace

import pytest
import torch

from fedspill.attacks.inverting_gradients import TotalVariation
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.matching.hypotheses import check_observed, protocols
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.priors.total_variation import EACH_VARIATION, total_variation
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import LBFGS, SignedAdam
from fedspill.zoo.models import build
from tests.support.watches import BreakingWatch, Broken, Impatient
from tests.support.worlds import SPEC, batch, conv_bn, mlp

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)


@pytest.mark.parametrize("distance", DISTANCES.values())
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, minibatch_size=2, lr=0.1, momentum=0.9)])
def test_the_matching_loss_is_0_at_the_truth_and_only_there(protocol, training, distance) -> None:
    model, private = conv_bn(training=training, dtype=DOUBLE), batch(4, dtype=DOUBLE)
    matching = Matching(model, local_update(model, private, protocol), protocol, 1, distance)
    z = SPEC.encode(private.inputs)
    assert matching(z, private.labels).item() == pytest.approx(0, abs=1e-12)
    assert matching(z + 0.3, private.labels).item() > 1e-7


def test_distances_against_one_long_vector() -> None:
    rng = stream(0, "test", "distances")
    guess = {k: randn((3, 4), rng, LIKE) for k in "ab"}
    observed = {k: randn((3, 4), rng, LIKE) for k in "ab"}
    one, two = (torch.cat([v.flatten() for v in p.values()]) for p in (guess, observed))
    torch.testing.assert_close(DISTANCES["squared"](guess, observed), (one - two).pow(2).sum())
    torch.testing.assert_close(
        DISTANCES["cosine"](guess, observed), 1 - torch.nn.functional.cosine_similarity(one, two, dim=0)
    )
    shifted = {k: 7 * v for k, v in guess.items()}
    torch.testing.assert_close(DISTANCES["cosine"](shifted, observed), DISTANCES["cosine"](guess, observed))


def test_total_variation_by_hand() -> None:
    z = torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])
    assert float(total_variation(z)) == pytest.approx((1 + 0) / 2 + (3 + 2) / 2)


def test_vectorial_variation_is_a_length_over_channels_and_directions() -> None:
    z = torch.zeros(2, 2, 2, 2, dtype=torch.float64)
    z[0, 0, 0, 1], z[0, 1, 1, 0] = 3.0, 4.0
    found = EACH_VARIATION["vectorial"](z)
    assert found.tolist() == pytest.approx([5.0, 0.0], abs=2e-3)
    noise = randn((3, 3, 9, 9), stream(0, "z"), z)
    smooth = torch.nn.functional.avg_pool2d(noise, 3, 1)
    assert bool((EACH_VARIATION["vectorial"](smooth) < EACH_VARIATION["vectorial"](noise)).all())
    assert bool((EACH_VARIATION["vectorial"](2 * noise) < 2.001 * EACH_VARIATION["vectorial"](noise)).all())
    turned = EACH_VARIATION["vectorial"](noise.transpose(-1, -2))
    torch.testing.assert_close(turned, EACH_VARIATION["vectorial"](noise))


def test_a_relative_prior_weighs_as_much_as_the_distance_that_is_left() -> None:
    prior = TotalVariation(tv=0.7, variation="vectorial", relative=True)
    z = randn((2, 1, 3, 6, 6), stream(0, "z"), torch.zeros((), dtype=torch.float64))
    small, large = torch.tensor([1e-3, 0.5], dtype=z.dtype), torch.tensor([2e-3, 1.0], dtype=z.dtype)
    variation = EACH_VARIATION["vectorial"](z)
    objective = prior.objective(conv_bn())
    torch.testing.assert_close(objective(small, z), small * (0.7 * variation).exp())
    torch.testing.assert_close(objective(large, z), 2 * objective(small, z))
    assert objective(torch.zeros_like(small), z).tolist() == [0.0, 0.0]


def test_networks_with_max_pooling_have_a_weight_of_their_own() -> None:
    z = randn((1, 1, 3, 16, 16), stream(0, "z"), torch.zeros(()))
    distance = torch.ones(1)

    def value(network: str, pooled: float | None, tv: float) -> float:
        model = build(network, input_shape=(3, 16, 16), num_classes=10)
        return float(TotalVariation(tv=tv, tv_pooled=pooled, relative=True).objective(model)(distance, z))

    assert value("convnet", 0.2, 0.7) == value("convnet", None, 0.2) != value("convnet", None, 0.7)
    assert value("lenet", 0.2, 0.7) == value("lenet", None, 0.7)


def test_the_cosine_schedule_falls_from_the_first_step_to_none() -> None:
    rule = SignedAdam(lr=0.6, schedule="cosine")
    assert [rule.step_size(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.6, 0.3, 0.0])
    assert [SignedAdam().step_size(t) for t in (0.0, 0.4, 0.7, 1.0)] == pytest.approx([0.1, 0.01, 1e-3, 1e-4])


def test_what_can_not_be_matched_is_refused() -> None:
    model = mlp()
    good = local_update(model, batch(1), FedSGD())
    with pytest.raises(BadInput, match="'other', which the model does not have"):
        check_observed(Update(UpdateKind.GRADIENT, {"other": torch.zeros(1)}), model)
    with pytest.raises(BadInput, match=r"has shape \(1,\)"):
        check_observed(Update(UpdateKind.GRADIENT, {"3.bias": torch.zeros(1)}), model)
    with pytest.raises(BadInput, match="NaN"):
        check_observed(Update(UpdateKind.GRADIENT, {"3.bias": torch.full((10,), torch.nan)}), model)
    with pytest.raises(NotApplicable, match="exactly 0"):
        check_observed(Update(UpdateKind.GRADIENT, {k: 0 * v for k, v in good.values.items()}), model)


def test_unknown_local_steps_become_candidates() -> None:
    model = mlp()
    delta = local_update(model, batch(1), FedAvg(epochs=3, lr=0.1, trainable=("3.*",)))
    found = protocols(delta, ServerKnowledge(model), (1, 3), 0.05)
    names = ("3.weight", "3.bias")
    assert found == [FedAvg(epochs=e, lr=0.05, trainable=names) for e in (1, 3)]
    with pytest.raises(BadInput, match="FedSGD, which sends gradients"):
        protocols(delta, ServerKnowledge(model, local_training=FedSGD()), (1,), 0.05)


def bowl(centre: float, floor: float = 0.0) -> Problem:
    """A convex problem with its minimum `floor` at `centre`."""
    return Problem(
        lambda rng: [randn((6,), rng, LIKE)],
        lambda v: (v[0] - centre).pow(2).sum() + floor,
        lambda v: None,
    )


@pytest.mark.parametrize("rule", [SignedAdam(), SignedAdam(signed=False), LBFGS(), LBFGS(line_search=True)])
def test_every_rule_finds_the_bottom(rule) -> None:
    found = Search(rule, 400).run([bowl(1.5)], stream(0, "s"), UNWATCHED)
    torch.testing.assert_close(found.variables[0], torch.full((6,), 1.5, dtype=DOUBLE), atol=5e-3, rtol=0)
    assert found.value == min(found.history)
    assert found.complete


def test_the_lowest_hypothesis_is_kept_and_all_are_reported() -> None:
    found = Search(LBFGS(), 20, restarts=2).run([bowl(0, 3.0), bowl(2, 1.0), bowl(4, 2.0)], stream(0, "s"), UNWATCHED)
    assert found.problem == 1
    assert found.best_by_problem == pytest.approx((3.0, 1.0, 2.0), abs=1e-6)


def test_the_best_iterate_is_kept_not_the_last() -> None:
    values = iter([5.0, 1.0, 4.0, 9.0])

    def value(v):
        return next(values) + 0 * v[0].sum()

    problem = Problem(lambda rng: [randn((2,), rng, LIKE)], value, lambda v: None)
    found = Search(SignedAdam(signed=False), 3).run([problem], stream(0, "s"), UNWATCHED)
    assert (found.value, found.history) == (1.0, (5.0, 1.0, 4.0, 9.0))


def test_step_decay_is_that_of_appendix_c() -> None:
    rule, v = SignedAdam(lr=0.4), [torch.zeros(2, requires_grad=True)]
    optimiser, seen = rule.optimiser(v), []
    for step in range(16):
        v[0].grad = torch.ones(2)
        rule.before_step(optimiser, v, step / 16)
        seen.append(optimiser.param_groups[0]["lr"])
    assert seen == pytest.approx([0.4] * 6 + [0.04] * 4 + [0.004] * 4 + [0.0004] * 2)


def test_a_diverging_run_is_given_up_and_the_next_start_taken() -> None:
    starts = iter([100.0, 0.1])
    problem = Problem(
        lambda rng: [torch.full((1,), next(starts), dtype=DOUBLE)], lambda v: v[0].pow(2).sum(), lambda v: None
    )
    search = Search(SignedAdam(lr=1e-3), 50, restarts=2, tolerance=1e-3, give_up=(5, 1.0))
    found = search.run([problem], stream(0, "s"), UNWATCHED)
    assert found.diverged == 1
    assert found.value < 1e-2


def test_a_run_of_nan_is_no_result_to_keep() -> None:
    starts = iter([float("nan"), 1.0])
    problem = Problem(
        lambda rng: [torch.full((1,), next(starts), dtype=DOUBLE)], lambda v: v[0].pow(2).sum(), lambda v: None
    )
    found = Search(LBFGS(), 5, restarts=2).run([problem], stream(0, "s"), UNWATCHED)
    assert found.value == pytest.approx(0, abs=1e-9)
    assert found.variables[0].isfinite().all()


@pytest.mark.parametrize("break_after", [1, 17, 29])
@pytest.mark.parametrize("rule", [SignedAdam(), LBFGS(inner=3)])
def test_a_broken_search_goes_on_to_the_same_result(rule, break_after: int) -> None:
    model, private = conv_bn(), batch(1)
    matching = Matching(model, local_update(model, private, FedSGD()), FedSGD(), 1, DISTANCES["cosine"])
    problem = Problem(
        lambda rng: [randn((1, *SPEC.shape), rng, model.like)], lambda v: matching(v[0], private.labels), lambda v: None
    )
    search = Search(rule, 10, restarts=3)
    whole = search.run([problem], stream(1, "s"), UNWATCHED)
    watch = BreakingWatch(break_after)
    with pytest.raises(Broken):
        search.run([problem], stream(1, "s"), watch)
    resumed = search.run([problem], stream(1, "s"), BreakingWatch(kept=watch.kept))
    assert torch.equal(resumed.variables[0], whole.variables[0])
    assert (resumed.history, resumed.value) == (whole.history, whole.value)


def test_a_search_that_runs_out_of_time_returns_its_best_and_says_so() -> None:
    found = Search(SignedAdam(), 100, restarts=4).run([bowl(1.0)], stream(0, "s"), Impatient(10))
    assert not found.complete
    assert found.value == min(found.history)
    assert len(found.history) < 100


def test_the_last_state_before_the_budgets_end_is_kept_to_go_on_from() -> None:
    class Ending(BreakingWatch):
        def out_of_time(self) -> bool:
            return self.saves == 6

        def save(self, state, *, last=False) -> None:
            super().save(state)
            self.last = last

    search = Search(SignedAdam(), 10, restarts=2)
    whole = search.run([bowl(1.0)], stream(0, "s"), UNWATCHED)
    watch = Ending()
    ended = search.run([bowl(1.0)], stream(0, "s"), watch)
    assert (ended.complete, watch.last) == (False, True)
    resumed = search.run([bowl(1.0)], stream(0, "s"), BreakingWatch(kept=watch.kept))
    assert resumed.history == whole.history
    assert torch.equal(resumed.variables[0], whole.variables[0])


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"steps": 5, "restarts": 0}])
def test_a_search_of_nothing_is_refused(wrong: dict) -> None:
    with pytest.raises(BadInput, match="both must be at least 1"):
        Search(SignedAdam(), **wrong)


class Slowing(BreakingWatch):
    """Lets all of 100 steps pass at first, and finds later that only so many fit."""

    def __init__(self, fit: int) -> None:
        super().__init__()
        self.fit, self.asked = fit, list[int]()

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        self.asked.append(steps)
        return (steps, restarts) if len(self.asked) == 1 else (self.fit - (100 - steps), 1)


@pytest.mark.parametrize("search", [Search(SignedAdam(), 100), BatchedSearch(SignedAdam(), 100, 2)])
def test_a_search_is_planned_anew_while_it_runs(search) -> None:
    watch = Slowing(fit=22)
    problem = replace(bowl(1.0), values=lambda v: (v[0] - 1).pow(2).flatten(1).sum(1))
    found = search.run([problem], stream(0, "s"), watch)
    assert found.complete
    # Asked of all at first; after the 1st step and 2, 4, 8 and 16 more, of those that are left.
    assert watch.asked == [100, 97, 95, 91, 83]
    assert len(found.history) == 22 + 1


class Clearing(BreakingWatch):
    """Allows half a run at first, and finds later that all of it fits."""

    def planned(self, steps: int, restarts: int, seconds: float) -> tuple[int, int]:
        return (steps // 2, 1) if steps == 100 else (steps, restarts)


@pytest.mark.parametrize("search", [Search(SignedAdam(), 100), BatchedSearch(SignedAdam(), 100, 2)])
def test_a_run_that_was_shortened_grows_again_where_the_time_allows(search) -> None:
    problem = replace(bowl(1.0), values=lambda v: (v[0] - 1).pow(2).flatten(1).sum(1))
    assert len(search.run([problem], stream(0, "s"), Clearing()).history) == 101


def test_a_run_grows_not_where_others_are_to_come() -> None:
    # Not where other runs are to come, whose time that would be.
    runs = Search(SignedAdam(), 100, restarts=2).run([bowl(1.0)], stream(0, "s"), Clearing())
    assert len(runs.history) == 51
