"""Soteria: the columns are those of the authors' score, and nothing else is touched."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.attacks.linear_layer import LinearLayer
from fedspill.attacks.logistic_regression import LogisticRegression
from fedspill.core.errors import BadInput
from fedspill.core.inputs import TableSpec, TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.defences.soteria import CARD, Soteria, scores
from fedspill.federation.client import Client
from tests.support.defences import audit
from tests.support.worlds import SPEC, batch, conv_bn, linear, mlp, relu_mlp


def plain_scores(model: Model, depth: int, n: int) -> torch.Tensor:
    """By an explicit Jacobian of the layers before, in float64."""
    z = SPEC.encode(batch(n, dtype=torch.float64).inputs)
    net = model.own_module()
    assert isinstance(net, nn.Sequential)
    total = torch.zeros((), dtype=torch.float64)
    for one in z:
        front = net[:depth]
        jacobian = torch.autograd.functional.jacobian(lambda x, front=front: front(x[None])[0], one)
        total = total + jacobian.flatten(1).norm(dim=1) / (front(one[None])[0].abs() + 0.1)
    return total


@pytest.mark.parametrize(
    ("make", "layer", "depth"), [(mlp, "3", 3), (relu_mlp, "3", 3), (relu_mlp, "5", 5), (conv_bn, "6", 6)]
)
def test_scores_are_those_of_an_explicit_jacobian(make, layer: str, depth: int) -> None:
    model = make(dtype=torch.float64)
    z = SPEC.encode(batch(3, dtype=torch.float64).inputs)
    torch.testing.assert_close(scores(model, layer, z), plain_scores(model, depth, 3).detach())


@pytest.mark.parametrize("training", [FedSGD(), FedAvg(epochs=2, lr=0.1)], ids=["fedsgd", "fedavg"])
@pytest.mark.parametrize(("percentile", "hidden"), [(0.0, 0), (1.0, 1), (60.0, 19), (100.0, 31)])
def test_the_lowest_scores_of_the_head_are_hidden_and_the_rest_sent(training, percentile: float, hidden: int) -> None:
    model, private = mlp(dtype=torch.float64), batch(2, dtype=torch.float64)
    plain = local_update(model, private, training)
    sent = Client(private, training, [Soteria(percentile).stages()]).respond(model, stream(0, "c"))
    lowest = plain_scores(model, 3, 2).argsort()[:hidden]
    expected = plain.values["3.weight"].clone()
    expected[:, lowest] = 0
    assert torch.equal(sent.values["3.weight"], expected)
    assert int((sent.values["3.weight"] == 0).all(0).sum()) == hidden
    for name in plain.values.keys() - {"3.weight"}:
        assert torch.equal(sent.values[name], plain.values[name])


def test_dropout_changes_no_score() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 10))
    model, z = Model.of(net, SPEC, training=True), SPEC.encode(batch(2).inputs)
    assert torch.equal(scores(model, "3", z), scores(model.in_eval_mode(), "3", z))


@pytest.mark.parametrize("layer", ["0", "conv", "2"])
def test_a_layer_that_is_not_fully_connected_is_refused(layer: str) -> None:
    with pytest.raises(BadInput, match=rf"layer='{layer}' is no torch.nn.Linear of the network; it has \['1', '3'\]"):
        Soteria(layer=layer).layer_of(mlp())


def test_what_cannot_be_hidden_is_refused() -> None:
    with pytest.raises(BadInput, match=r"percentile=101.0 must lie in \[0, 100\]"):
        Soteria(101.0)
    head_only = FedSGD(trainable=("1.*",))
    with pytest.raises(BadInput, match="the clients do not send '3.weight'"):
        Client(batch(1), head_only, [Soteria().stages()]).respond(mlp(), stream(0, "c"))
    assert TokenSpec not in CARD.accepts
    assert TableSpec in CARD.accepts
    frozen = replace(mlp(), module=Model.of(Cut(), SPEC).module)
    with pytest.raises(BadInput, match="no gradient reaches the input"):
        scores(frozen, "3", SPEC.encode(batch(1).inputs))


class Cut(nn.Sequential):
    """The small network, with a gradient that is cut off before the head."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            super().__init__(nn.Flatten(), nn.Linear(192, 32), nn.Sigmoid(), nn.Linear(32, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self[3](self[1](x.flatten(1)).sigmoid().detach())


def test_a_network_of_one_layer_sends_the_pixels_that_are_kept() -> None:
    model, private = linear(dtype=torch.float64), batch(1, dtype=torch.float64)
    sent = Client(private, FedSGD(), [Soteria(50.0).stages()]).respond(model, stream(0, "c"))
    z, read = SPEC.encode(private.inputs).flatten(), sent.values["1.weight"][0] / sent.values["1.bias"][0]
    gone = read == 0
    assert int(gone.sum()) == 96
    torch.testing.assert_close(read[~gone], z[~gone])
    assert z[gone].abs().min() > z[~gone].abs().max(), "of single pixels the score is 1 / (|x| + 0.1)"


@pytest.mark.parametrize("attack", [LogisticRegression(), LinearLayer()])
def test_columns_that_were_not_sent_certify_nothing(attack) -> None:
    model, private, defence = linear(dtype=torch.float64), batch(1, dtype=torch.float64), Soteria(60.0)
    sent = Client(private, FedSGD(), [defence.stages()]).respond(model, stream(0, "c"))
    knowledge = ServerKnowledge(model, labels=private.labels, num_examples=1, local_training=FedSGD())
    plain = attack.reconstruct(local_update(model, private, FedSGD()), knowledge, stream(0, "a"))
    hidden = attack.reconstruct(sent, replace(knowledge, defence=defence.known(model)), stream(0, "a"))
    assert plain.converged
    assert not hidden.converged
    told = sent.values["1.weight"][0] != 0
    torch.testing.assert_close(hidden.inputs.flatten()[told], private.inputs.flatten()[told])


def test_an_audit_runs_it_and_says_that_nothing_is_proven() -> None:
    report = audit([{"name": "soteria", "percentile": 50}], ["linear_layer"]).report
    (entry,) = report.defences
    assert (entry.name, entry.cost) == ("soteria", None)
    assert report.trials[0].skipped is None
