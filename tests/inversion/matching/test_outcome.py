"""What a search calls itself: converged by its level at its end, and before it only where nothing is left to search."""

import copy
import math

import pytest
import torch
from torch import nn

from fedspill.attacks.inverting_gradients import InvertingGradients
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED
from fedspill.core.settings import with_fields
from fedspill.inversion.matching.hypotheses import Hypothesis
from fedspill.inversion.matching.outcome import EXACT, conclude, distance_to
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.search.problem import Found
from tests.support.watches import Impatient
from tests.support.worlds import SPEC, batch, mlp


@pytest.mark.parametrize("complete", [True, False])
def test_a_search_that_the_budget_ended_converged_only_where_its_update_is_the_observed_one(complete: bool) -> None:
    model, private = mlp(dtype=torch.float64), batch(1, dtype=torch.float64)
    matching = Matching(model, local_update(model, private, FedSGD()), FedSGD(), 1, cosine_distance)
    tried = [Hypothesis(1, private.labels, FedSGD(), "granted")]
    truth = SPEC.encode(private.inputs)
    blank = distance_to(matching, torch.zeros_like(truth), private.labels)
    noise = randn(tuple(truth.shape), stream(0, "noise"), truth)

    def share(z: torch.Tensor) -> float:
        return distance_to(matching, z, private.labels) / blank

    near = truth + next(s for s in (3.0, 2.0, 1.0, 0.5, 0.2, 0.1) if share(truth + s * noise) < 0.1) * noise
    assert EXACT < share(near) < 0.1
    for z, converged in ((truth, True), (near, complete)):
        found = Found(0, [z], share(z), (1.0, share(z)), (share(z),), 0, complete)
        got = conclude(matching, z, private.labels, found, tried, level=0.1)
        assert got.converged is converged
        assert any("budget ended" in note for note in got.notes) is not complete
        assert not conclude(matching, near, private.labels, found, tried, level=EXACT).converged


def test_an_attack_that_is_cut_off_has_not_converged_however_lax_its_level() -> None:
    model, private = mlp(), batch(2)
    update = local_update(model, private, FedSGD())
    knowledge = ServerKnowledge(model, labels=private.labels, local_training=FedSGD())
    attack = with_fields(InvertingGradients(), steps=12, converged_below=0.999, analytic=False)
    whole = attack.reconstruct(update, knowledge, stream(0, "a"), UNWATCHED)
    cut = attack.reconstruct(update, knowledge, stream(0, "a"), Impatient(10))
    assert whole.converged
    assert float(cut.confidence.max()) > 1e-3, "its level is met"
    assert not cut.converged


def test_a_gradient_that_says_nothing_of_the_picture_is_said_to() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(SPEC.shape), 8), nn.Linear(8, 4))
    alive = Model.of(copy.deepcopy(net), SPEC, training=False)
    with torch.no_grad():
        for layer in net[1:]:
            layer.get_parameter("weight").mul_(1e-12)
    dead = Model.of(net, SPEC, training=False)
    private = batch(2)
    for model, silent in ((dead, True), (alive, False)):
        knowledge = ServerKnowledge(model, labels=private.labels, local_training=FedSGD())
        attack = with_fields(InvertingGradients(), steps=2, analytic=False)
        got = attack.reconstruct(local_update(model, private, FedSGD()), knowledge, stream(0, "a"), UNWATCHED)
        assert any("nothing to follow" in note for note in got.notes) is silent
