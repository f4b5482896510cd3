"""A network that ends in a log-softmax and trains by negative log-likelihood, as in PyTorch's own examples.

It is the same network without the log-softmax that trains by cross-entropy: what is read of one is read of the other.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedspill
from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, encoded_update
from fedspill.core.model import Model
from fedspill.core.probing.head import features_and_logits, head_module, last_linear
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import LossFn
from fedspill.inversion.labels.methods import default_method, infer
from fedspill.inversion.recursion.graph import Dataflow

SPEC, CLASSES = ImageSpec((1, 4, 4)), 5
DOUBLE = torch.zeros((), dtype=torch.float64)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.fc = nn.Linear(16, 7), nn.Linear(7, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.base(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class ByFunction(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return functional.log_softmax(super().forward(x), dim=1)


class ByMethod(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).log_softmax(-1)


class ByLayer(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.LogSoftmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(super().forward(x))


ENDS = [ByFunction, ByMethod, ByLayer]


def model_of(kind: type[nn.Module], loss: LossFn = functional.nll_loss) -> Model:
    model = Model.of(kind(), SPEC, loss).to("cpu", torch.float64)
    return model.with_params({k: 0.5 * randn(tuple(v.shape), stream(1, k), v) for k, v in model.params.items()})


@pytest.mark.parametrize("kind", ENDS)
def test_the_head_and_what_enters_it(kind) -> None:
    model, z = model_of(kind), rand((13, 1, 4, 4), stream(0), DOUBLE)
    head = last_linear(model)
    assert head == last_linear(model_of(Plain, functional.cross_entropy))
    assert head_module(model) == "fc"
    features, outputs = features_and_logits(model, model.params, z, head)
    torch.testing.assert_close(features, model.own_module().features(z))
    torch.testing.assert_close(outputs, model.logits(model.params, z))


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize("number", [1, 3])
def test_labels_are_read_as_without_it(kind, number: int) -> None:
    model, labels = model_of(kind), torch.tensor([3, 0, 4][:number])
    z = rand((number, 1, 4, 4), stream(0), DOUBLE)
    update, knowledge = encoded_update(model, z, labels, FedSGD()), ServerKnowledge(model, num_examples=number)
    method = default_method(update, knowledge, number)
    assert infer(method, update, knowledge, number, stream(0)).tolist() == sorted(labels.tolist())
    plain = ServerKnowledge(model_of(Plain, functional.cross_entropy), num_examples=number)
    assert method == default_method(update, plain, number)


@pytest.mark.parametrize("kind", ENDS)
def test_the_recursion_starts_before_it(kind) -> None:
    model, z = model_of(kind), rand((1, 1, 4, 4), stream(0), DOUBLE)
    flow = Dataflow(model)
    logits = flow.until([flow.output.name])(z)[0]
    torch.testing.assert_close(logits, model_of(Plain).logits(model.params, z))


WEIGHT = torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("loss", [functional.nll_loss, nn.NLLLoss(), nn.NLLLoss(WEIGHT)])
def test_its_loss_is_cross_entropy_and_has_the_same_gradient(loss) -> None:
    model, z, labels = model_of(ByFunction, loss), rand((4, 1, 4, 4), stream(0), DOUBLE), torch.tensor([3, 0, 4, 0])
    weight = getattr(loss, "weight", None)
    logits = randn((4, CLASSES), stream(2), DOUBLE)
    expected = functional.cross_entropy(logits, labels, weight=weight)
    torch.testing.assert_close(model.loss_fn(logits, labels), expected)
    net = ByFunction().double()
    net.load_state_dict(dict(model.params))
    loss(net(z), labels).backward()
    update = encoded_update(model, z, labels, FedSGD())
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(update.values[name], parameter.grad)


def test_a_loss_of_log_probabilities_stays_as_it_is_where_there_are_none() -> None:
    """A client that forgot the log-softmax trains by what it has."""
    assert model_of(Plain).loss_fn is functional.nll_loss
    summed, ignoring = nn.NLLLoss(reduction="sum"), nn.NLLLoss(ignore_index=2)
    assert model_of(ByFunction, summed).loss_fn is summed
    assert model_of(ByFunction, ignoring).loss_fn is ignoring
    assert model_of(ByFunction).with_loss(functional.cross_entropy).loss_fn is functional.cross_entropy


@pytest.mark.parametrize("loss", ["torch.nn:NLLLoss", "torch.nn.functional:nll_loss", nn.NLLLoss()])
def test_from_the_outside_one_example_is_read_exactly(loss) -> None:
    net = ByFunction()
    net.load_state_dict({k: 0.5 * randn(tuple(v.shape), stream(1, k), v) for k, v in net.state_dict().items()})
    x = torch.rand(1, 1, 4, 4, generator=stream(0))
    functional.nll_loss(net(x), torch.tensor([3])).backward()
    sent = {k: p.grad for k, p in net.named_parameters()}
    found = fedspill.attack(sent, net, attack="linear_layer", shape=(1, 4, 4), normalise=False, loss=loss)
    torch.testing.assert_close(found.inputs, x, rtol=0, atol=1e-4)
    assert found.labels.tolist() == [3]
