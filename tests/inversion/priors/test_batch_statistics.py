"""Statistics at BatchNorm layers against plain PyTorch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Batch
from fedspill.federation.client import bn_statistics
from fedspill.inversion.priors.batch_statistics import BatchStatistics
from fedspill.zoo.models import build
from tests.support.worlds import SPEC, batch, conv_bn, mlp

DOUBLE = torch.float64


@pytest.mark.parametrize("training", [False, True])
def test_of_the_clients_batch_it_is_0_at_the_truth_alone(training: bool) -> None:
    model, private = conv_bn(training=training, dtype=DOUBLE), batch(3, dtype=DOUBLE)
    prior = BatchStatistics.of_client(model, bn_statistics(model, private))
    z = SPEC.encode(private.inputs)
    assert float(prior(z)) == pytest.approx(0, abs=1e-4)
    assert float(prior(z.flip(0))) == pytest.approx(0, abs=1e-4), "statistics know no order"
    assert float(prior(z + 0.3)) > 1e-2


def test_it_is_the_sum_of_the_lengths_with_the_first_layer_more_often() -> None:
    model, z = conv_bn(dtype=DOUBLE), SPEC.encode(batch(3, dtype=DOUBLE).inputs)
    prior = BatchStatistics.running(model)
    net, entering = model.own_module(), list[torch.Tensor]()
    layers = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, inputs: entering.append(inputs[0]))
    net(z)
    expected = torch.zeros((), dtype=DOUBLE)
    for number, (layer, x) in enumerate(zip(layers, entering, strict=True)):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        apart = (mean - layer.running_mean).norm() + (var - layer.running_var).norm()
        expected += apart * (10 if number == 0 else 1)
    torch.testing.assert_close(prior(z), expected, rtol=1e-6, atol=1e-6)
    stack = torch.stack([z, z + 0.1])
    torch.testing.assert_close(prior.each(stack), torch.stack([prior(one) for one in stack]))


def test_it_has_a_derivative() -> None:
    prior = BatchStatistics.running(conv_bn(dtype=DOUBLE))
    z = randn((2, *SPEC.shape), stream(0), torch.zeros((), dtype=DOUBLE)).requires_grad_()
    (slope,) = torch.autograd.grad(prior(z), z)
    direction = randn(tuple(z.shape), stream(1), z)
    h = 1e-6
    with torch.no_grad():
        along = (prior(z + h * direction) - prior(z - h * direction)) / (2 * h)
    assert float((slope * direction).sum()) == pytest.approx(float(along), rel=1e-5)


def test_what_is_not_there_is_said_in_one_line() -> None:
    with pytest.raises(NotApplicable, match="has no BatchNorm layer"):
        BatchStatistics.running(mlp())
    with pytest.raises(NotApplicable, match="were not granted"):
        BatchStatistics.of_client(conv_bn(), None)


def test_a_layer_that_is_never_called_is_left_out() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.norm, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(SPEC.shape[0]), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(x).flatten(1)[:, :12])

    model, private = Model.of(Spare().double(), SPEC), batch(3, dtype=DOUBLE)
    z = SPEC.encode(private.inputs)
    assert float(BatchStatistics.of_client(model, bn_statistics(model, private))(z)) == pytest.approx(0, abs=1e-4)
    mean, var = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
    expected = 10 * (mean.norm() + (var - 1).norm())
    torch.testing.assert_close(BatchStatistics.running(model)(z), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(NotApplicable, match="of none of the network's"):
        BatchStatistics.of_client(model, {"other.mean": mean, "other.var": var})
    with pytest.raises(NotApplicable, match="calls none of its"):
        BatchStatistics(model, {"spare": (mean, var)})(z)


@pytest.mark.parametrize("training", [False, True])
def test_of_a_residual_network_it_is_what_plain_hooks_see(training: bool) -> None:
    model = build("resnet20", input_shape=(3, 8, 8), num_classes=10, seed=0).to("cpu", DOUBLE)
    model = replace(model, training=training)
    z = randn((2, 3, 8, 8), stream(0), model.like)
    private = Batch(model.input.decode(model.input.project(z)), torch.tensor([0, 1]))
    z, other = model.input.encode(private.inputs), randn((2, 3, 8, 8), stream(1), model.like)

    def entering(x: Tensor) -> dict[str, Tensor]:
        seen, net = dict[str, Tensor](), model.own_module().train(training)
        for name, layer in net.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(lambda module, inputs, name=name: seen.update({name: inputs[0]}))
        net(x)
        return seen

    of_client, here = entering(z), entering(other)
    assert len(of_client) == 19
    expected = torch.zeros((), dtype=DOUBLE)
    for number, (name, x) in enumerate(of_client.items()):
        (m, v), (mean, var) = ((y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)) for y in (x, here[name]))
        expected += ((m - mean).norm() + (v - var).norm()) * (10 if number == 0 else 1)
    prior = BatchStatistics.of_client(model, bn_statistics(model, private))
    torch.testing.assert_close(prior(other), expected, rtol=1e-6, atol=1e-5)
    assert float(prior(z)) < 1e-4
