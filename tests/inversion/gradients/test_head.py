"""The classification layer's mean gradient and the weights at which it is taken."""

import pytest
import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, local_update
from fedspill.inversion.gradients.head import head_gradient
from tests.support.worlds import batch, linear


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_its_weights_give_its_gradient_up_to_the_square_of_the_way(momentum: float, weight_decay: float) -> None:
    model, private, errors = linear(dtype=torch.float64), batch(4, dtype=torch.float64), list[float]()
    for lr in (2e-4, 1e-4):
        training = FedAvg(epochs=10, lr=lr, momentum=momentum, weight_decay=weight_decay)
        knowledge = ServerKnowledge(model, num_examples=4, local_training=training)
        head = head_gradient(local_update(model, private, training), knowledge, 4)
        assert head.offset is not None
        assert head.head.bias is not None
        there = model.with_params({head.head.weight: head.weight, head.head.bias: head.offset})
        gradient = local_update(there, private, FedSGD()).values[head.head.weight]
        errors.append(float((head.rows() - gradient).norm() / gradient.norm()))
    assert errors[1] < 0.3 * errors[0] < 1e-3
