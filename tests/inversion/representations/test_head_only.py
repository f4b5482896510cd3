"""Updates that hold the gradients of a head alone, as in federated transfer learning."""

from dataclasses import replace
from math import isfinite

import pytest
import torch
from torch import Tensor

from fedspill import catalogue
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import UNWATCHED
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch
from fedspill.inversion.network.extractor import two_layer_head, with_module
from fedspill.inversion.objective.distances import DISTANCES, DistanceName
from fedspill.inversion.objective.matching import Matching
from fedspill.zoo.models import build

LIKE = torch.zeros(())


def cnn(*, deep_head: bool) -> Model:
    model = build("cnn", input_shape=(3, 8, 8), num_classes=10, options={"width": 4, "channels": 8})
    if not deep_head:
        return model

    def drawn(*shape: int) -> Tensor:
        return (rand(shape, stream(0, "head", *shape), LIKE) - 0.5) * (12 / shape[-1]) ** 0.5

    return with_module(model, "head", two_layer_head((drawn(64, 8), drawn(64)), (drawn(10, 64), drawn(10))))


def pictures(n: int) -> Batch:
    smooth = torch.nn.functional.interpolate(
        rand((n, 3, 4, 4), stream(0, "head only", n), LIKE), size=8, mode="bilinear"
    )
    return Batch(smooth, torch.arange(n) * 3 % 10)


@pytest.mark.parametrize("deep_head", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("name", ["inverting_gradients", "dlg", "idlg"])
def test_gradient_matching_needs_no_more_than_the_head(name: str, deep_head: bool) -> None:
    model, batch = cnn(deep_head=deep_head), pictures(1 if name == "idlg" else 2)
    few = {"steps": 6} if name == "inverting_gradients" else {"steps": 2, "restarts": 1}
    attack = with_fields(catalogue.attacks()[name].presets["quick"], **few)
    bare = ServerKnowledge(model, num_examples=len(batch))
    granted = replace(bare, labels=batch.labels, local_training=FedAvg(2, lr=0.05, trainable=("head.*",)))
    for training, knowledge in ((FedSGD(trainable=("head.*",)), bare), (granted.local_training, granted)):
        assert training is not None
        update = local_update(model, batch, training)
        assert all(k.startswith("head.") for k in update.values)
        got = attack.reconstruct(update, knowledge, stream(0, "attack"), UNWATCHED)
        assert got.inputs.shape == batch.inputs.shape
        assert got.labels is not None
        assert all(isfinite(v) for v in got.objective)
        # L-BFGS has no line search, and a few of its steps need not descend.
        assert name != "inverting_gradients" or min(got.objective) < got.objective[0]


@pytest.mark.parametrize("deep_head", [False, True], ids=["one layer", "two layers"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_head_alone_tells_the_truth_from_another_image(distance: DistanceName, deep_head: bool) -> None:
    model, batch = cnn(deep_head=deep_head).to("cpu", torch.float64), pictures(2).to(LIKE.double())
    observed = local_update(model, batch, FedSGD(trainable=("head.*",)))
    matching = Matching(model, observed, FedSGD(trainable=tuple(observed.values)), 1, DISTANCES[distance])
    z = model.input.encode(batch.inputs)
    assert float(matching(z, batch.labels).detach()) == pytest.approx(0, abs=1e-12)
    other = z.flip(3).requires_grad_()
    value = matching(other, batch.labels)
    (slope,) = torch.autograd.grad(value, other)
    assert float(value.detach()) > 1e-6
    assert bool((slope != 0).any())
