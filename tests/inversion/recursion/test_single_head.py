"""The last layer's input, told by the loss alone, against the input."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.losses import BinaryCrossEntropy, Focal
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import LossFn
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Head
from fedspill.inversion.recursion.single_head import heads_of_one
from tests.support.chains import gradient_of

LIKE = torch.zeros((), dtype=torch.float64)


def linear(outputs: int, loss: LossFn = functional.cross_entropy, *, bias: bool = False) -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(5, outputs, bias=bias))
    model = Model.of(net, ImageSpec((1, 1, 5)), loss).to("cpu", torch.float64)
    return model.with_params({k: randn(tuple(v.shape), stream(0, "test", k), LIKE) for k, v in model.params.items()})


def numbers(examples: int = 1, seed: int = 0) -> Tensor:
    return randn((examples, 1, 1, 5), stream(seed, "test", "x"), LIKE)


def heads(model: Model, z: Tensor, label: Tensor, assumed: Tensor | None = None) -> list[Head]:
    gradient = gradient_of(model, z, label)
    return heads_of_one(model, Dataflow(model), gradient, label if assumed is None else assumed)


@pytest.mark.parametrize("logit", [-3.0, -0.4, 0.3, 2.5])
@pytest.mark.parametrize("label", [0, 1])
def test_one_output_leaves_one_root_where_the_label_is_not_predicted_and_else_two(logit: float, label: int) -> None:
    model, z = linear(1, BinaryCrossEntropy()), numbers()
    z = z * logit / model.logits(model.params, z)
    found = heads(model, z, torch.tensor([label]))
    assert len(found) == (2 if (logit > 0) == bool(label) else 1)
    best = min(found, key=lambda h: float((h.features - z.flatten(1)).norm()))
    torch.testing.assert_close(best.features, z.flatten(1), rtol=1e-6, atol=1e-9)
    wanted = torch.sigmoid(torch.tensor([[logit]], dtype=torch.float64)) - label
    torch.testing.assert_close(best.cotangents, wanted, rtol=1e-6, atol=1e-9)
    for head in found:  # all of them have the observed gradient
        again = gradient_of(model, head.features.reshape(z.shape), torch.tensor([label]))
        torch.testing.assert_close(again["1.weight"], head.cotangents.T @ head.features)


@pytest.mark.parametrize("loss", [functional.cross_entropy, Focal(gamma=2.0)])
@pytest.mark.parametrize("bias", [False, True])
def test_several_outputs_tell_the_input_for_the_right_label_alone(loss: LossFn, *, bias: bool) -> None:
    model, z, label = linear(4, loss, bias=bias), numbers(), torch.tensor([2])
    (found,) = heads(model, z, label)
    torch.testing.assert_close(found.features, z.flatten(1), rtol=1e-6, atol=1e-9)
    if not bias:
        with pytest.raises(NotApplicable, match="with this loss and this label"):
            heads(model, z, label, torch.tensor([1]))


def test_a_frozen_bias_counts_in_the_logits() -> None:
    model, z, label = linear(3, bias=True), numbers(), torch.tensor([0])
    sent = {"1.weight": gradient_of(model, z, label)["1.weight"]}
    (found,) = heads_of_one(model, Dataflow(model), sent, label)
    torch.testing.assert_close(found.features, z.flatten(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_several_examples_are_told_from_one(*, bias: bool) -> None:
    with pytest.raises(NotApplicable, match="not that of one example"):
        heads(linear(4, bias=bias), numbers(2), torch.tensor([0, 2]))


def test_a_network_without_a_linear_end_is_refused() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    model = Model.of(net, ImageSpec((1, 1, 5))).to("cpu", torch.float64)
    with pytest.raises(NotApplicable, match="does not end in a linear layer"):
        heads_of_one(model, Dataflow(model), gradient_of(model, numbers(), torch.tensor([1])), torch.tensor([1]))
