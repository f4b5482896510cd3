"""The two-phase evaluation of the matching objective against plain double differentiation."""

import pytest
import torch

from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.rng import randn, stream
from fedspill.inversion.objective.distances import DISTANCES, cotangent
from fedspill.inversion.objective.matching import Matching
from tests.support.networks import plain
from tests.support.worlds import SPEC, batch, conv_bn, mlp

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)
PROTOCOLS = [
    FedSGD(),
    FedSGD(trainable=("*.weight",)),
    FedAvg(epochs=2, minibatch_size=2, lr=0.1, momentum=0.9, weight_decay=1e-2),
]


@pytest.mark.parametrize("distance", [*DISTANCES.values(), lambda g, o: sum((g[k] - o[k]).abs().sum() for k in o)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("clients", [1, 2])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_value_and_gradients_are_those_of_plain_double_differentiation(protocol, clients, training, distance) -> None:
    model, private = conv_bn(training=training, dtype=DOUBLE), batch(4, dtype=DOUBLE)
    observed = local_update(model, private, protocol)
    matching = Matching(model, observed, protocol, clients, distance)
    rng = stream(3, "test", "phases")
    z = randn((4, *SPEC.shape), rng, LIKE).requires_grad_()
    logits = randn((4, 10), rng, LIKE).requires_grad_()
    for labels, variables in ((private.labels, [z]), (logits.softmax(1), [z, logits])):
        value, wanted = matching(z, labels), plain(matching, z, labels)
        torch.testing.assert_close(value, wanted, rtol=1e-10, atol=0)
        found = torch.autograd.grad(value, variables, retain_graph=True)
        for got, want in zip(found, torch.autograd.grad(wanted, variables, retain_graph=True), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


def test_the_objective_is_one_term_of_an_ordinary_sum() -> None:
    model, private = mlp(dtype=DOUBLE), batch(2, dtype=DOUBLE)
    matching = Matching(model, local_update(model, private, FedSGD()), FedSGD(), 1, DISTANCES["cosine"])
    z = randn((2, *SPEC.shape), stream(0, "test", "sum"), LIKE).requires_grad_()
    (alone,) = torch.autograd.grad(matching(z, private.labels), z)
    (both,) = torch.autograd.grad(3 * matching(z, private.labels) + z.pow(2).sum(), z)
    torch.testing.assert_close(both, 3 * alone + 2 * z)
    with torch.no_grad():
        assert not matching(z, private.labels).requires_grad


@pytest.mark.parametrize("name", DISTANCES)
def test_a_candidate_without_a_gradient_has_no_cotangent_of_nan(name) -> None:
    observed = {"w": torch.ones(3, dtype=DOUBLE)}
    value, direction, factor = cotangent(DISTANCES[name], {"w": torch.zeros(3, dtype=DOUBLE)}, observed)
    assert float(value) == {"cosine": 1.0, "squared": 3.0, "surviving": 1.0}[name]
    assert direction[0].isfinite().all()
    assert (direction[0] * factor).isfinite().all()
