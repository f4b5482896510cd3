"""Statistics at BatchNorm layers against plain PyTorch."""

import pytest
import torch
from torch import nn

from fedspill.core.errors import NotApplicable
from fedspill.core.rng import randn, stream
from fedspill.federation.client import bn_statistics
from fedspill.inversion.priors.batch_statistics import BatchStatistics
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
