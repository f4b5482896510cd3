"""What a defence spoils is left out of the matching, and nothing else."""

import pytest
import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import KnownDefence, ServerKnowledge
from fedspill.core.local_training.conditions import Conditions
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining
from fedspill.core.rng import stream
from fedspill.defences.soteria import Soteria
from fedspill.federation.client import Client
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses, observed_by
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.ignoring import behind_or_in, ignored
from tests.support.worlds import SPEC, batch, conv_bn, mlp, relu_mlp

PROTOCOLS = {
    "fedsgd": FedSGD(),
    "clipped": FedSGD(conditions=Conditions(clip_norm=0.1)),
    "fedavg": FedAvg(epochs=3, lr=0.1),
}


def test_nothing_is_ignored_without_a_reason() -> None:
    assert ignored(None, mlp()) == frozenset()
    assert ignored(KnownDefence(names=("clipping",)), mlp()) == frozenset()


def test_a_random_layer_spoils_itself_and_what_is_behind() -> None:
    model = relu_mlp()
    assert behind_or_in(model, "3") == {"3.weight", "3.bias", "5.weight", "5.bias"}
    assert behind_or_in(conv_bn(training=True), "6") == {"6.weight", "6.bias"}
    both = KnownDefence(left_out=frozenset({"1.bias"}), random_layers=frozenset({"5"}))
    assert ignored(both, model) == {"1.bias", "5.weight", "5.bias"}


def distance_at_the_truth(training: LocalTraining, known: bool) -> float:
    """Of what Soteria left of an update, as an attack measures it that knows, or does not know, of it."""
    model, private, defence = mlp(dtype=torch.float64), batch(2, dtype=torch.float64), Soteria(60.0)
    sent = Client(private, training, [defence.stages()]).respond(model, stream(0, "c"))
    knowledge = ServerKnowledge(
        model, labels=private.labels, local_training=training, defence=defence.known(model) if known else None
    )
    found = observed_by(sent, knowledge)
    (tried,) = hypotheses(found.update, found.knowledge, Unknowns(), stream(0, "a"))
    matching = ForwardModel.of(tried, found.knowledge, found.update, cosine_distance, shorten=True).matching
    return float(matching(SPEC.encode(private.inputs), private.labels))


@pytest.mark.parametrize("training", PROTOCOLS.values(), ids=PROTOCOLS)
def test_at_the_truth_the_distance_is_0_once_the_layer_is_left_out(training: LocalTraining) -> None:
    assert distance_at_the_truth(training, known=True) < 1e-12
    assert distance_at_the_truth(training, known=False) > 1e-3


def test_where_all_is_spoiled_there_is_nothing_to_match() -> None:
    private, training = batch(1), FedSGD(trainable=("3.weight",))
    sent = Client(private, training, [Soteria().stages()]).respond(mlp(), stream(0, "c"))
    with pytest.raises(NotApplicable, match=r"spoil all that the update holds: \['3.weight'\]"):
        observed_by(sent, ServerKnowledge(mlp(), defence=Soteria().known(mlp())))
