"""The client's computation against torch.optim and plain autograd, in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import FedAvg, FedSGD, aggregate_update, encoded_update, local_update
from fedspill.core.types import UpdateKind
from tests.support.worlds import batch, conv_bn, mlp

DOUBLE = torch.float64


def reference(model, private, training: FedAvg) -> tuple[dict, dict]:
    """The same protocol with a real module and torch.optim.SGD: parameters and buffers after training."""
    module = model.module
    module.load_state_dict({**model.params, **model.buffers})
    module.to(DOUBLE).train(model.training)
    optimiser = torch.optim.SGD(
        module.parameters(), lr=training.lr, momentum=training.momentum, weight_decay=training.weight_decay
    )
    z, size = model.input.encode(private.inputs), training.minibatch_size or len(private)
    for _ in range(training.epochs):
        for k in range(0, len(z), size):
            optimiser.zero_grad()
            functional.cross_entropy(module(z[k : k + size]), private.labels[k : k + size]).backward()
            optimiser.step()
    return dict(module.named_parameters()), dict(module.named_buffers())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "protocol",
    [
        FedAvg(lr=0.1),
        FedAvg(epochs=3, minibatch_size=2, lr=0.1),
        FedAvg(epochs=2, minibatch_size=3, lr=0.05, momentum=0.9, weight_decay=0.01),
    ],
)
def test_fedavg_is_what_torch_optim_does(protocol: FedAvg, training: bool) -> None:
    model, private = conv_bn(training=training, dtype=DOUBLE), batch(5, dtype=DOUBLE)
    update = local_update(model, private, protocol)
    after, buffers = reference(model, private, protocol)
    assert update.kind is UpdateKind.DELTA
    for name, value in update.values.items():
        torch.testing.assert_close(value, model.params[name] - after[name], rtol=1e-9, atol=1e-12)
    if training:
        assert update.buffers is not None
        for name, value in update.buffers.items():
            torch.testing.assert_close(value, buffers[name], rtol=1e-9, atol=1e-12)
    else:
        assert update.buffers is None


def test_fedsgd_is_the_mean_of_the_examples_gradients() -> None:
    model, private = conv_bn(dtype=DOUBLE), batch(4, dtype=DOUBLE)
    whole = local_update(model, private, FedSGD())
    single = [local_update(model, private[i : i + 1], FedSGD()) for i in range(4)]
    for name, value in whole.values.items():
        torch.testing.assert_close(value, torch.stack([u.values[name] for u in single]).mean(0))


def test_one_step_of_fedavg_is_lr_times_the_gradient() -> None:
    model, private = mlp(dtype=DOUBLE), batch(3, dtype=DOUBLE)
    gradient = local_update(model, private, FedSGD())
    delta = local_update(model, private, FedAvg(lr=0.2))
    for name, value in gradient.values.items():
        torch.testing.assert_close(delta.values[name], 0.2 * value, rtol=1e-9, atol=1e-14)


def test_only_trainable_parameters_are_sent_and_the_others_stay() -> None:
    model, private = mlp(dtype=DOUBLE), batch(3, dtype=DOUBLE)
    update = local_update(model, private, FedAvg(epochs=3, lr=0.5, trainable=("3.*",)))
    assert list(update.values) == ["3.weight", "3.bias"]
    head_alone = nn.Linear(32, 10).to(DOUBLE)
    head_alone.load_state_dict({"weight": model.params["3.weight"], "bias": model.params["3.bias"]})
    features = torch.sigmoid(
        model.input.encode(private.inputs).flatten(1) @ model.params["1.weight"].T + model.params["1.bias"]
    )
    optimiser = torch.optim.SGD(head_alone.parameters(), lr=0.5)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(head_alone(features), private.labels).backward()
        optimiser.step()
    torch.testing.assert_close(update.values["3.weight"], model.params["3.weight"] - head_alone.weight.detach())


def test_a_pattern_that_matches_nothing_is_named() -> None:
    with pytest.raises(BadInput, match=r"'hed\.\*' matches none of"):
        local_update(mlp(), batch(1), FedSGD(trainable=("hed.*",)))


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, minibatch_size=1, lr=0.1)])
def test_the_server_sees_the_mean_of_equal_shares(protocol) -> None:
    model, private = conv_bn(training=True, dtype=DOUBLE), batch(6, dtype=DOUBLE)
    z = model.input.encode(private.inputs)
    seen = aggregate_update(model, z, private.labels, protocol, 3)
    single = [local_update(model, private[k : k + 2], protocol) for k in (0, 2, 4)]
    for name, value in seen.values.items():
        torch.testing.assert_close(value, torch.stack([u.values[name] for u in single]).mean(0))
    with pytest.raises(BadInput, match="6 examples cannot be shared out equally to 4 clients"):
        aggregate_update(model, z, private.labels, protocol, 4)


@pytest.mark.parametrize("protocol", [FedSGD(), FedAvg(epochs=2, minibatch_size=1, lr=0.3, momentum=0.5)])
def test_the_update_is_differentiable_in_inputs_and_soft_labels(protocol) -> None:
    model = conv_bn(dtype=DOUBLE)
    z = model.input.encode(batch(2, dtype=DOUBLE).inputs).requires_grad_()
    labels = torch.eye(10, dtype=DOUBLE)[:2].requires_grad_()

    def squared(z, labels):
        update = encoded_update(model, z, labels, protocol, create_graph=True)
        return torch.stack([v.pow(2).sum() for v in update.values.values()]).sum()

    assert torch.autograd.gradcheck(squared, (z, labels), eps=1e-6, atol=1e-6)


def test_soft_labels_that_are_certain_are_classes() -> None:
    model, private = mlp(dtype=DOUBLE), batch(3, dtype=DOUBLE)
    z = model.input.encode(private.inputs)
    soft = functional.one_hot(private.labels, 10).to(DOUBLE)
    hard, same = (encoded_update(model, z, labels, FedSGD()) for labels in (private.labels, soft))
    for name, value in hard.values.items():
        torch.testing.assert_close(same.values[name], value)


def test_train_mode_leaves_the_models_own_buffers_alone() -> None:
    model = conv_bn(training=True)
    before = {k: v.clone() for k, v in model.buffers.items()}
    update = local_update(model, batch(4), FedSGD())
    assert all(torch.equal(model.buffers[k], v) for k, v in before.items())
    assert update.buffers is not None
    assert not torch.equal(update.buffers["1.running_mean"], before["1.running_mean"])
