"""Labels of clients whose optimiser leaves no more of a gradient than signs: read of these, or not at all."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.losses import CrossEntropy
from fedspill.core.local_training.optimizers import Adagrad, Adam, AdamW, Optimizer, RMSprop
from fedspill.core.local_training.update import FedAvg, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Update, UpdateKind
from fedspill.inversion.labels.methods import METHODS, OF_SIGNS, default_method, infer
from fedspill.inversion.labels.scale import head_multiple
from fedspill.testing.worlds import CLASSES, SPEC, batch, draw_weights

OPTIMIZERS: list[Optimizer] = [Adam(), AdamW(), RMSprop(), Adagrad()]


def network(*, bias: bool = True) -> Model:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, CLASSES, bias=bias))
    return Model.of(draw_weights(net, scale=0.1), SPEC)


def knows(model: Model, count: int, optimizer: Optimizer, steps: int = 1) -> ServerKnowledge:
    return ServerKnowledge(model, num_examples=count, local_training=FedAvg(epochs=steps, lr=1e-3, optimizer=optimizer))


def sent(knowledge: ServerKnowledge, labels: Tensor) -> Update:
    private = Batch(batch(len(labels)).inputs, labels)
    return local_update(knowledge.model, private, knowledge.local_training)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("bias", [True, False])
def test_the_label_of_one_example_is_read_of_signs(optimizer: Optimizer, steps: int, bias: bool) -> None:
    knowledge = knows(network(bias=bias), 1, optimizer, steps)
    for label in range(CLASSES):
        update = sent(knowledge, torch.tensor([label]))
        method = default_method(update, knowledge, 1)
        assert method == ("bias_sign" if bias else "idlg")
        assert infer(method, update, knowledge, 1, stream(0, "labels")).tolist() == [label]


def test_of_plain_adam_as_pytorch_has_it_too() -> None:
    model = network()
    net = model.own_module()
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    for p in net.parameters():
        p.requires_grad_()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    labels = torch.tensor([2, 7])
    functional.cross_entropy(net(SPEC.encode(batch(2).inputs)), labels).backward()
    optimizer.step()
    update = Update(UpdateKind.DELTA, {k: before[k] - v.detach() for k, v in net.named_parameters()})
    knowledge = knows(model, 2, Adam())
    assert infer(default_method(update, knowledge, 2), update, knowledge, 2, stream(0, "x")).tolist() == [2, 7]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_methods_that_read_sizes_are_refused(optimizer: Optimizer) -> None:
    knowledge = knows(network(), 1, optimizer)
    update = sent(knowledge, torch.tensor([3]))
    for method in METHODS:
        if method in OF_SIGNS:
            assert infer(method, update, knowledge, 1, stream(0, "labels")).tolist() == [3]
            continue
        with pytest.raises(NotApplicable, match=f"'{method}' reads sizes"):
            infer(method, update, knowledge, 1, stream(0, "labels"))
    assert head_multiple(update, knowledge, 1) is None


def test_signs_do_not_tell_several_labels_without_a_bias_nor_labels_under_any_loss() -> None:
    unbiased = knows(network(bias=False), 2, Adam())
    with pytest.raises(NotApplicable, match="without a bias of the last layer"):
        default_method(sent(unbiased, torch.tensor([1, 2])), unbiased, 2)
    # Smoothed so much that a class without an example is pushed up, too.
    smooth = replace(network(), loss_fn=CrossEntropy(label_smoothing=0.99))
    knowledge = knows(smooth, 1, Adam())
    with pytest.raises(NotApplicable, match="under this loss"):
        default_method(sent(knowledge, torch.tensor([1])), knowledge, 1)
    slightly = knows(replace(network(), loss_fn=CrossEntropy(label_smoothing=0.1)), 1, Adam(), 5)
    update = sent(slightly, torch.tensor([4]))
    assert default_method(update, slightly, 1) == "bias_sign"
    assert infer("bias_sign", update, slightly, 1, stream(0, "x")).tolist() == [4]
