"""Distances to many observed updates in one stack are those to each by itself."""

import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.kernels import ghost_layers
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.objective.stacked import MatchingMany
from tests.support.networks import network, of_zoo, plain, private_of
from tests.support.worlds import CLASSES, SPEC, conv_bn, draw_weights

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)


def small_convnet() -> Model:
    """BatchNorm and max-pooling."""
    with torch.random.fork_rng():
        first, second = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 1, 1)
        norms = [nn.BatchNorm2d(8), nn.BatchNorm2d(16)]
        net = nn.Sequential(
            first, norms[0], nn.ReLU(), nn.MaxPool2d(2), second, norms[1], nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
        )
    return Model.of(draw_weights(net), SPEC).to("cpu", DOUBLE)


NETWORKS: dict[str, Callable[[], Model]] = {
    "lenet": lambda: of_zoo("lenet"),
    "convnet": small_convnet,
    "resnet": lambda: of_zoo("resnet18", width=4),
    "every layer": lambda: network("every layer"),
}


@pytest.fixture(params=["as chosen", "by tiles", "formed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks take the ways of large ones."""
    if request.param != "as chosen":
        monkeypatch.setattr(ghost_layers, "cheaper_unformed", lambda positions, inside, outside: False)
    if request.param == "by tiles":
        monkeypatch.setattr(ghost_layers, "best_tile", lambda n, shape, inside, outside: 2)


@pytest.mark.parametrize("trainable", [("*",), ("*.weight",)])
@pytest.mark.parametrize("runs", [1, 2])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("way")
def test_distances_and_gradients_are_those_of_every_update_by_itself(
    name: str, runs: int, trainable: tuple[str, ...]
) -> None:
    model, protocol, private = NETWORKS[name](), FedSGD(trainable), [private_of(j) for j in range(3)]
    updates = [local_update(model, p, protocol) for p in private]
    joint = MatchingMany(model, tuple(u.values for u in updates), torch.stack([p.labels for p in private]), runs)
    assert joint.stacks
    z = randn((3 * runs, 2, *SPEC.shape), stream(0, "z"), LIKE).requires_grad_()
    each = [
        (Matching(model, u, protocol, 1, DISTANCES["cosine"]), p.labels) for u, p in zip(updates, private, strict=True)
    ]
    wanted = torch.stack([plain(m, one, y) for (m, y), own in zip(each, z.split(runs), strict=True) for one in own])
    factors = torch.linspace(1.0, 2.0, 3 * runs, dtype=DOUBLE)
    found = joint.each(z)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
    got, slope = (torch.autograd.grad(v @ factors, z)[0] for v in (found, wanted))
    torch.testing.assert_close(got, slope, rtol=1e-9, atol=1e-10 * float(slope.abs().max()))


def test_what_mixes_updates_is_not_stacked() -> None:
    private = [private_of(j) for j in range(3)]
    labels, weights = torch.stack([p.labels for p in private]), torch.linspace(1.0, 2.0, CLASSES, dtype=DOUBLE)
    for model, stacks, alone in (
        (network("every layer"), True, True),
        (network("scaled"), False, False),
        (network("tied"), False, False),
        (replace(network("every layer"), loss_fn=nn.CrossEntropyLoss(weights)), False, True),
        (replace(network("every layer"), loss_fn=nn.CrossEntropyLoss(reduction="sum")), False, False),
    ):
        observed = tuple(local_update(model, p, FedSGD()).values for p in private)
        assert MatchingMany(model, observed, labels).stacks == stacks
        assert MatchingMany(model, observed[:1], labels[:1], 2).stacks == alone


def test_what_was_copied_is_given_back() -> None:
    private = [private_of(j) for j in range(2)]
    model = conv_bn(dtype=DOUBLE)
    observed = tuple(local_update(model, p, FedSGD()).values for p in private)
    joint, z = MatchingMany(model, observed, torch.stack([p.labels for p in private])), torch.zeros(2, 2, *SPEC.shape)
    value = joint.each(z.to(LIKE))
    copy = weakref.ref(joint._network.observed["0.weight"])
    joint.release()
    assert copy() is None
    torch.testing.assert_close(joint.each(z.to(LIKE)), value)
