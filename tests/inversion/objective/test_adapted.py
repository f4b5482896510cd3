"""Distances of an attacker who knows the defence: 0 at every update that the client may have computed."""

from dataclasses import replace

import pytest
import torch

from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.rng import stream
from fedspill.core.roles import ClientContext
from fedspill.core.types import Params, Update
from fedspill.defences.clipping import Clipping
from fedspill.defences.gradient_noise import GradientNoise
from fedspill.defences.percentile_privacy import PercentilePrivacy
from fedspill.defences.pruning import Pruning
from fedspill.defences.quantisation import Quantisation
from fedspill.defences.svt_privacy import SVTPrivacy
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Hypothesis
from fedspill.inversion.objective.adapted import Consistent, SignDistance, adapted
from fedspill.inversion.objective.distances import cosine_distance, cotangent, squared_distance
from fedspill.inversion.objective.matching import Matching
from tests.support.worlds import batch, mlp

MODEL, PRIVATE = mlp(), batch(2)
SENT = local_update(MODEL, PRIVATE, FedSGD())
TRUE: Params = {k: v.double() for k, v in SENT.values.items()}
TOP = max(float(v.abs().max()) for v in TRUE.values())
DEFENCES = {
    "pruning": Pruning(0.7),
    "top_k": Pruning(0.9, whole=True),
    "percentile": PercentilePrivacy(percentile=50.0, gamma=TOP / 3),
}


def protected(defence, sent: Params = TRUE) -> Params:
    update = Update(SENT.kind, sent)
    return defence.stages().protect(update, ClientContext(MODEL, PRIVATE, FedSGD()), stream(0, "noise")).values


def scaled(values: Params, factor: float) -> Params:
    return {k: factor * v for k, v in values.items()}


def elsewhere() -> Params:
    rng = torch.Generator().manual_seed(3)
    return {k: torch.randn(v.shape, generator=rng, dtype=torch.float64) * v.std() for k, v in TRUE.items()}


@pytest.mark.parametrize("name", DEFENCES)
def test_the_update_that_the_client_computed_fits_and_another_does_not(name: str) -> None:
    defence = DEFENCES[name]
    observed, known = protected(defence), defence.known(MODEL)
    for plain in (cosine_distance, squared_distance):
        distance = adapted(plain, known)
        at_truth, before = float(distance(TRUE, observed)), float(plain(TRUE, observed))
        assert at_truth < 0.2 * before + 1e-12, "nearly 0: the scale is fitted, and a little of the plain one stays"
        assert float(distance(elsewhere(), observed)) > 0.05 * float(plain(elsewhere(), observed))
    squared = adapted(squared_distance, known)
    assert float(squared(TRUE, observed)) == pytest.approx(0.0, abs=1e-15)


def test_without_knowledge_or_anything_to_adapt_to_the_distance_is_the_same_one() -> None:
    for known in (None, KnownDefence(), *(d.known(MODEL) for d in (Clipping(), GradientNoise(), Quantisation(3)))):
        assert adapted(cosine_distance, known) is cosine_distance
    assert adapted(squared_distance, Clipping().known(MODEL)) is cosine_distance, "the length says nothing"
    assert adapted(squared_distance, GradientNoise().known(MODEL)) is squared_distance


def test_of_several_clients_and_behind_noise_only_what_was_not_sent_is_left_out() -> None:
    pruned = adapted(cosine_distance, Pruning().known(MODEL), clients=2)
    assert pruned == Consistent(survivors=True)
    assert adapted(cosine_distance, SVTPrivacy().known(MODEL)) == Consistent(survivors=True)
    assert adapted(cosine_distance, Quantisation(1).known(MODEL), clients=2) is cosine_distance


def test_pruned_values_are_matched_as_no_larger_than_the_smallest_that_was_sent() -> None:
    distance = adapted(squared_distance, Pruning(0.5).known(MODEL))
    observed = {"w": torch.tensor([0.0, 0.0, 2.0, -3.0]).double()}
    assert float(distance({"w": torch.tensor([1.9, -2.0, 2.0, -3.0]).double()}, observed)) == 0.0
    assert float(distance({"w": torch.tensor([2.5, 0.0, 2.0, -2.0]).double()}, observed)) == pytest.approx(1.25)


def test_cut_values_may_be_larger_and_no_smaller() -> None:
    distance = adapted(squared_distance, KnownDefence(cut=True))
    observed = {"w": torch.tensor([1.0, -1.0, 0.5]).double()}
    assert float(distance({"w": torch.tensor([7.0, -1.0, 0.5]).double()}, observed)) == 0.0
    assert float(distance({"w": torch.tensor([0.0, 1.0, 1.0]).double()}, observed)) == pytest.approx(1 + 4 + 0.25)


def test_the_distance_of_signs_and_the_cosines_do_not_depend_on_a_guess_scale() -> None:
    signs = {k: v.sign() for k, v in TRUE.items()}
    distance = adapted(cosine_distance, Quantisation(1).known(MODEL))
    assert distance == SignDistance()
    assert float(distance(TRUE, signs)) < float(cosine_distance(TRUE, signs))
    assert float(distance(TRUE, signs)) < 0.5 * float(distance(elsewhere(), signs))
    for rule, observed in ((distance, signs), (adapted(cosine_distance, Pruning().known(MODEL)), protected(Pruning()))):
        torch.testing.assert_close(rule(scaled(TRUE, 7.0), observed), rule(TRUE, observed))


def test_what_is_left_out_is_not_looked_at() -> None:
    name = next(iter(TRUE))
    distance = adapted(cosine_distance, KnownDefence(left_out=frozenset({name})))
    altered = {**TRUE, name: torch.full_like(TRUE[name], 9.0)}
    assert float(distance(TRUE, altered)) == pytest.approx(0.0, abs=1e-12)
    value, direction, _ = cotangent(distance, elsewhere(), altered)
    assert float(value) > 0.1
    assert not direction[0].any()
    everything = adapted(cosine_distance, KnownDefence(left_out=frozenset(TRUE)))
    assert float(everything(elsewhere(), TRUE)) == pytest.approx(float(cosine_distance(elsewhere(), TRUE)))


@pytest.mark.parametrize("name", [*DEFENCES, "signs"])
def test_the_gradient_points_downhill(name: str) -> None:
    defence = DEFENCES.get(name, Quantisation(1))
    observed, distance = protected(defence), adapted(cosine_distance, defence.known(MODEL))
    here = elsewhere()
    value, direction, factor = cotangent(distance, here, observed)
    slope = float(factor) * sum(float(d.square().sum()) for d in direction)
    size = 1e-3 * float(value) / slope
    lower = {k: here[k] - size * float(factor) * d for k, d in zip(observed, direction, strict=True)}
    assert float(distance(lower, observed)) < float(value)


def test_the_objective_of_a_search_is_the_adapted_one_and_stays_as_it_is_without_knowledge() -> None:
    hypothesis = Hypothesis(2, PRIVATE.labels, FedSGD(), "granted")
    z = MODEL.input.encode(PRIVATE.inputs)
    for defence, reads in ((Pruning(), False), (Clipping(), True), (None, True)):
        known = None if defence is None else defence.known(MODEL)
        knowledge = ServerKnowledge(MODEL, num_examples=2, labels=PRIVATE.labels, defence=known)
        sent = SENT if defence is None else Update(SENT.kind, protected(defence, SENT.values))
        made = ForwardModel.of(hypothesis, knowledge, sent, cosine_distance, shorten=False)
        assert made.matching.distance is cosine_distance, "layers of low rank are completed, and matched as they were"
        unknown = replace(knowledge, num_examples=None)  # of an unknown number no rank is known
        apart = ForwardModel.of(hypothesis, unknown, sent, cosine_distance, shorten=False)
        assert (apart.matching.distance is cosine_distance) == reads
        assert float(apart.matching(z, PRIVATE.labels)) == pytest.approx(0.0, abs=5e-3)
        bare = float(cosine_distance(SENT.values, sent.values))
        assert float(made.matching(z, PRIVATE.labels)) < 0.7 * bare + 1e-4, "closer than what was sent"
        one = ForwardModel.of(
            Hypothesis(1, PRIVATE.labels[:1], FedSGD(), ""), knowledge, sent, cosine_distance, shorten=False
        )
        assert (one.gradient is not None) == reads, "a part of a gradient is not read as one"
    plain = Matching(MODEL, SENT, FedSGD(), 1, cosine_distance)
    assert torch.equal(made.matching(z, PRIVATE.labels), plain(z, PRIVATE.labels))
