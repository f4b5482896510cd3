"""GradInversion: what it compares, how seeds are pulled and judged, and that a run goes on where it was broken off."""

from dataclasses import replace

import pytest
import torch

from fedspill.attacks.grad_inversion import CARD, GradInversion
from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch
from fedspill.federation.client import bn_statistics
from fedspill.inversion.search.langevin import LangevinAdam, Phase
from tests.support.watches import BreakingWatch, Broken
from tests.support.worlds import batch, conv_bn, mlp

SMALL = with_fields(CARD.presets["paper"], steps=12, seeds=2, group_every=2)


def world(n: int = 2) -> tuple[Batch, ServerKnowledge]:
    model, private = conv_bn(), batch(n)
    known = ServerKnowledge(model, num_examples=n, labels=private.labels, local_training=FedSGD())
    return private, replace(known, bn_statistics=bn_statistics(model, private))


def run(attack: GradInversion, n: int = 2, watch: BreakingWatch | None = None, seed: int = 0):
    private, known = world(n)
    update = local_update(known.model, private, FedSGD())
    return attack.reconstruct(update, known, stream(seed, "attack"), watch or BreakingWatch())


def test_a_broken_run_goes_on_to_the_same_result() -> None:
    whole = run(SMALL)
    watch = BreakingWatch(break_after=7)
    with pytest.raises(Broken):
        run(SMALL, watch=watch)
    resumed = run(SMALL, watch=BreakingWatch(kept=watch.kept))
    assert torch.equal(resumed.inputs, whole.inputs)
    assert resumed.objective == whole.objective


def test_noise_moves_the_candidate_alone_by_its_step_size() -> None:
    phase = Phase()
    rule = LangevinAdam(0.1, noise=0.5, warm_up=0.1, seed=3, phase=phase)
    variables = [torch.zeros(2, 4000), torch.zeros(2, 5)]
    optimiser = rule.optimiser(variables)
    for v in variables:
        v.grad = torch.zeros_like(v)
    rule.set_step_size(optimiser, 0.1)
    optimiser.step()
    assert phase.steps == 1
    assert float(variables[0].std()) == pytest.approx(0.5 * 0.1, rel=0.05)
    assert not variables[1].any()
    assert rule.step_size(0.05) == pytest.approx(0.05)
    assert rule.step_size(1.0) == pytest.approx(0.0)


def test_seeds_are_pulled_together_and_judged_without_the_pull() -> None:
    free = run(with_fields(SMALL, consensus="none"))
    pulled = run(with_fields(SMALL, group=1e4, group_after=0.0, consensus="mean"))
    assert free.objective[0] == pytest.approx(pulled.objective[0])
    assert max(pulled.objective) < 100, "the pull's own size is not counted"
    assert not torch.equal(free.inputs, pulled.inputs)


def test_whose_statistics_were_compared_is_said() -> None:
    assert "the clients' batch" in run(SMALL).notes[-1]
    assert "of the model" in run(with_fields(SMALL, statistics="running")).notes[-1]
    assert run(with_fields(SMALL, statistics="none")).notes[-1].startswith("No statistics")
    private, known = world()
    update, without = local_update(known.model, private, FedSGD()), replace(known, bn_statistics=None)
    with pytest.raises(NotApplicable, match="were not granted"):
        SMALL.reconstruct(update, without, stream(0))
    best = with_fields(SMALL, statistics="best")
    assert "of the model" in best.reconstruct(update, without, stream(0)).notes[-1]
    plain = ServerKnowledge(mlp(), num_examples=2, labels=private.labels)
    sent = local_update(plain.model, private, FedSGD())
    assert best.reconstruct(sent, plain, stream(0)).notes[-1].startswith("No statistics")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"seeds": 0}, {"lr": 0.0}, {"noise": -1.0}, {"group_every": 0}])
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(BadInput):
        with_fields(SMALL, **wrong)


def test_targets_that_are_no_classes_are_pulled_as_of_one_class() -> None:
    model, private = conv_bn(), batch(2)

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets).square().mean()

    model, targets = model.with_loss(loss), torch.tensor([0.25, -1.0])
    update = local_update(model, replace(private, labels=targets), FedSGD())
    known = ServerKnowledge(model, num_examples=2, labels=targets, local_training=FedSGD())
    found = with_fields(SMALL, statistics="running", group_after=0.0).reconstruct(update, known, stream(0))
    assert found.inputs.shape == private.inputs.shape
    assert found.labels is None
