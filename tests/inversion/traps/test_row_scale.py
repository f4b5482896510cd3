"""The rounding of what a bias moved by, of deltas with weight decay and of multiples."""

import torch

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.path import local_path
from fedspill.core.local_training.update import FedAvg, local_update
from fedspill.inversion.gradients.layer import row_gradient
from fedspill.inversion.traps.passthrough import carried
from fedspill.inversion.traps.row_scale import _rounding  # pyright: ignore[reportPrivateUsage]
from fedspill.testing.worlds import batch, relu_mlp


def test_rounding_is_multiplied_as_the_gradient_was_recovered_with_weight_decay() -> None:
    model, training = relu_mlp(), FedAvg(epochs=2, lr=0.1, weight_decay=0.5)
    update = local_update(model, batch(2), training)
    knowledge = ServerKnowledge(model, num_examples=2, local_training=training)
    _, way = carried(model, phases=False)
    gradient = row_gradient(update, knowledge, way.layer)
    size = model.params[way.layer.bias].double().abs() / local_path(training, 2).gradient
    expected = torch.finfo(torch.float32).eps * size / gradient.bias.abs().clamp_min(1e-300)
    torch.testing.assert_close(_rounding(update, knowledge, way, gradient), expected)
