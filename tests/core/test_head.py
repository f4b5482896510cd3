"""The head is what makes the logits, whatever its kind, its name and its place."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, encoded_update
from fedspill.core.model import Model, next_token_loss
from fedspill.core.probing.head import Head, features_and_logits, head_module, last_linear
from fedspill.core.rng import rand, randn, stream
from fedspill.inversion.labels.methods import default_method, infer

SPEC, CLASSES, WIDTH = ImageSpec((1, 4, 4)), 5, 7
DOUBLE = torch.zeros((), dtype=torch.float64)


class Based(nn.Module):
    """Features (n, 7) that are above 0, by a layer that is registered first."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(16, WIDTH)
        self.build()

    def build(self) -> None:
        self.fc = nn.Linear(WIDTH, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.base(x.flatten(1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x))


class AuxiliaryAfterIt(Based):
    def build(self) -> None:
        super().build()
        self.head = nn.Linear(WIDTH, CLASSES)


class HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out, self.base = nn.Linear(WIDTH, CLASSES), nn.Linear(16, WIDTH)

    features = Based.features

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.features(x))


class Bare(Based):
    def build(self) -> None:
        self.w, self.b = nn.Parameter(torch.randn(CLASSES, WIDTH)), nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.features(x), self.w, self.b)


class BareAcross(Based):
    def build(self) -> None:
        self.w, self.b = nn.Parameter(torch.randn(WIDTH, CLASSES)), nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x) @ self.w + self.b


class ConvolvedThenPooled(Based):
    def build(self) -> None:
        self.conv, self.pool = nn.Conv2d(WIDTH, CLASSES, 1), nn.AdaptiveAvgPool2d(1)

    def maps(self, x: Tensor) -> Tensor:
        return torch.stack([self.shifted(x, k) for k in range(4)], -1).view(-1, WIDTH, 2, 2)

    def shifted(self, x: Tensor, k: int) -> Tensor:
        return torch.sigmoid(self.base(x.flatten(1).roll(k, 1)))

    def features(self, x: Tensor) -> Tensor:
        return self.maps(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(self.maps(x))).flatten(1)


class SquareLayers(Based):
    def build(self) -> None:
        self.fc, self.last = nn.Linear(WIDTH, CLASSES), nn.Linear(CLASSES, CLASSES)
        self.late = nn.Linear(CLASSES, CLASSES)

    def features(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.late(torch.tanh(self.fc(super().features(x)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.features(x))


class Tempered(Based):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 4


class OneOutput(Based):
    def build(self) -> None:
        self.fc = nn.Linear(WIDTH, 1)


HEADS = {
    "plain": (Based, Head("fc", "fc.weight", "fc.bias")),
    "an unused head after it": (AuxiliaryAfterIt, Head("fc", "fc.weight", "fc.bias")),
    "registered first": (HeadFirst, Head("out", "out.weight", "out.bias")),
    "bare parameters": (Bare, Head("", "w", "b")),
    "bare parameters, across": (BareAcross, Head("", "w", "b", True)),
    "1x1 convolution": (ConvolvedThenPooled, Head("conv", "conv.weight", "conv.bias")),
    "square layers": (SquareLayers, Head("last", "last.weight", "last.bias")),
    "one output": (OneOutput, Head("fc", "fc.weight", "fc.bias")),
}


def model_of(kind: type[nn.Module]) -> Model:
    model = Model.of(kind(), SPEC).to("cpu", torch.float64)
    return model.with_params({k: 0.5 * randn(tuple(v.shape), stream(1, k), v) for k, v in model.params.items()})


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_what_makes_the_logits(kind) -> None:
    make, expected = HEADS[kind]
    model = model_of(make)
    assert last_linear(model) == expected
    assert last_linear(Model.of(make().train(), SPEC, training=True)) == expected


@pytest.mark.parametrize("kind", HEADS)
def test_what_enters_the_head_is_found(kind) -> None:
    model = model_of(HEADS[kind][0])
    z, head = rand((13, 1, 4, 4), stream(0), DOUBLE), last_linear(model)
    features, logits = features_and_logits(model, model.params, z, head)
    torch.testing.assert_close(features, model.own_module().features(z))
    assert torch.equal(logits, model.logits(model.params, z))
    torch.testing.assert_close(features @ head.rows(model.params[head.weight]).T + model.params[head.bias], logits)


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("kind", [k for k in HEADS if k != "one output"])
def test_labels_are_read_from_any_head(kind, number) -> None:
    model, labels = model_of(HEADS[kind][0]), torch.tensor([3, 0, 4][:number])
    z = rand((number, 1, 4, 4), stream(0), DOUBLE)
    update, knowledge = encoded_update(model, z, labels, FedSGD()), ServerKnowledge(model, num_examples=number)
    method = default_method(update, knowledge, number)
    assert infer(method, update, knowledge, number, stream(0)).tolist() == sorted(labels.tolist())
    if number == 1:
        assert infer("idlg", update, knowledge, 1, stream(0)).tolist() == [3]


def test_a_head_behind_a_temperature_has_no_plain_bias() -> None:
    model = model_of(Tempered)
    head = last_linear(model)
    assert head == Head("fc", "fc.weight", None)
    z = rand((3, 1, 4, 4), stream(0), DOUBLE)
    torch.testing.assert_close(features_and_logits(model, model.params, z, head)[0], model.own_module().features(z) / 4)


class Bent(Based):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(super().forward(x))


class Normed(Based):
    def build(self) -> None:
        self.fc = parametrizations.weight_norm(nn.Linear(WIDTH, CLASSES, bias=False))


class Tied(nn.Module):
    """Its last weight is its first one's too."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(self.fc(x.flatten(1))))


@pytest.mark.parametrize("make", [Bent, Normed, Tied])
def test_a_network_without_a_linear_head_is_told_in_one_line(make) -> None:
    model = model_of(make)
    with pytest.raises(NotApplicable, match=f"^{make.__name__} has no linear layer that makes its logits.*$"):
        last_linear(model)
    assert getattr(model.module, "fc", None) is not None


def test_a_head_over_tokens() -> None:
    net = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 6))
    model = Model.of(net, TokenSpec(3, 6), next_token_loss)
    assert last_linear(model) == Head("3", "3.weight", "3.bias")
    with pytest.raises(NotApplicable, match="once for each example"):
        features_and_logits(model, model.params, torch.zeros(2, 3, dtype=torch.long), last_linear(model))


class UsualNames(Based):
    """An unused layer of a usual name; the head is a stack."""

    def build(self) -> None:
        self.classifier = nn.Sequential(nn.Linear(WIDTH, 6), nn.ReLU(), nn.Linear(6, CLASSES))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def test_the_head_that_is_shared_is_the_module_that_hands_the_logits_out() -> None:
    assert head_module(model_of(UsualNames)) == "classifier"
    assert head_module(model_of(AuxiliaryAfterIt)) == "fc"
    assert head_module(model_of(HeadFirst)) == "out"
    for make in (Bare, ConvolvedThenPooled, Tempered):
        with pytest.raises(NotApplicable, match="no head to share"):
            head_module(model_of(make))


class Squeezed(OneOutput):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, 0]


def test_a_single_output_is_one_class() -> None:
    model, z = model_of(Squeezed), rand((3, 1, 4, 4), stream(0), DOUBLE)
    assert last_linear(model) == Head("fc", "fc.weight", "fc.bias")
    features, logits = features_and_logits(model, model.params, z, last_linear(model))
    torch.testing.assert_close(features, model.own_module().features(z))
    assert logits.shape == (3, 1)


@pytest.mark.parametrize("silent", ["base", "fc"])
def test_the_head_does_not_depend_on_the_weights(silent) -> None:
    class Rectified(Based):
        def features(self, x: Tensor) -> Tensor:
            return torch.relu(self.base(x.flatten(1)))

    model = model_of(Rectified)
    zeros = {k: torch.zeros_like(v) if k.startswith(silent) else v for k, v in model.params.items()}
    assert last_linear(model.with_params(zeros)) == Head("fc", "fc.weight", "fc.bias")
    assert last_linear(model) == Head("fc", "fc.weight", "fc.bias")
