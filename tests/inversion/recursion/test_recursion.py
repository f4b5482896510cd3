"""What a gradient says exactly of activations, against the activations."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.recursion.graph import Dataflow, _traced
from fedspill.inversion.recursion.known_activations import KnownActivations, known_activations
from fedspill.inversion.recursion.layer_by_layer import Recursion
from fedspill.inversion.shift_structure.maps import maps_by_rank
from fedspill.inversion.shift_structure.patches import cotangent_of, design
from tests.support.worlds import CLASSES, draw_weights

DOUBLE = torch.float64
LIKE = torch.zeros((), dtype=DOUBLE)
LABEL = torch.tensor([3])


def numbers(*shape: int, name: str = "x") -> Tensor:
    return randn(shape, stream(0, "test", name), LIKE)


def weight_gradient(layer: nn.Conv2d, x: Tensor, cotangent: Tensor) -> Tensor:
    return torch.autograd.grad(layer(x), layer.weight, cotangent)[0]


GEOMETRIES = [(3, 1, 1, 1), (3, 2, 1, 1), (5, 2, 2, 1), (1, 2, 0, 1), (3, 1, 2, 2), (2, 1, 0, 1)]


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation"), GEOMETRIES)
def test_the_design_takes_inputs_to_the_gradient_of_the_weight(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    layer = nn.Conv2d(2, 4, kernel, stride, padding, dilation, bias=False).double()
    x = numbers(1, 2, 8, 7)
    cotangent = numbers(*layer(x).shape, name="g")
    found = design(cotangent, layer, x.shape) @ x[0].flatten(1).T  # (o k l, i)
    wanted = weight_gradient(layer, x, cotangent)
    torch.testing.assert_close(found.T.reshape(2, 4, kernel, kernel).transpose(0, 1), wanted)


def test_cotangents_follow_from_input_and_gradient_where_patches_are_independent() -> None:
    layer = nn.Conv2d(4, 5, 3, padding=1, bias=False).double()
    x = numbers(1, 4, 4, 4)
    cotangent = numbers(1, 5, 4, 4, name="g")
    found = cotangent_of(weight_gradient(layer, x, cotangent), x, layer)
    assert found is not None
    torch.testing.assert_close(found, cotangent)
    assert cotangent_of(layer.weight, numbers(1, 4, 8, 8), layer) is None  # 64 patches of 36 values


@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (5, 2)])
def test_rank_gives_the_input_up_to_a_factor(kernel: int, padding: int) -> None:
    layer = nn.Conv2d(6, 40, kernel, padding=padding, bias=False).double()
    x = numbers(1, 6, 6, 6).abs()
    gradient = weight_gradient(layer, x, numbers(*layer(x).shape, name="g")).float().double()
    found = maps_by_rank(gradient, layer, x.shape)
    assert found is not None
    torch.testing.assert_close(found * (x.norm() / found.norm()), x, rtol=1e-4, atol=1e-5)


def test_rank_does_not_tell_where_it_cannot() -> None:
    layer = nn.Conv2d(6, 40, 3, padding=1, bias=False).double()
    x, y = numbers(1, 6, 5, 5), numbers(1, 6, 5, 5, name="y")
    gradient = weight_gradient(layer, x, numbers(1, 40, 5, 5, name="g"))
    assert maps_by_rank(gradient, layer, x.shape) is not None
    assert maps_by_rank(gradient[:20], layer, x.shape) is None  # fewer channels than positions
    noisy = gradient + 1e-3 * numbers(*gradient.shape, name="noise")
    assert maps_by_rank(noisy, layer, x.shape) is None
    two = gradient + weight_gradient(layer, y, numbers(1, 40, 5, 5, name="h"))
    assert maps_by_rank(two, layer, x.shape) is None


class Residual(nn.Module):
    """Two blocks, the second with a stride and a shortcut of its own, and a head."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = (nn.BatchNorm2d(width) for _ in range(2))
        self.down1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.down2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.down3, self.bn3 = nn.Conv2d(width, 2 * width, 1, stride=2, bias=False), nn.BatchNorm2d(2 * width)
        self.bn4 = nn.BatchNorm2d(2 * width)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(2 * width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.stem(x)))
        out = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(out)) + x)
        out = self.down2(self.relu(self.bn3(self.down1(x))))
        out = self.bn4(out)
        out += self.down3(x)
        return self.fc(self.relu(out).mean((2, 3)))


def model_of(module: nn.Module, side: int = 8) -> Model:
    spec = ImageSpec((3, side, side), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
    return Model.of(draw_weights(module, scale=0.3), spec).to("cpu", DOUBLE)


def residual() -> Model:
    with torch.random.fork_rng():
        model = model_of(Residual())
    shift = {k: 0.1 * numbers(*v.shape, name=k) for k, v in model.params.items() if "bn" in k}
    return model.with_params(
        {k: v + 1 + shift[k] if k in shift and "weight" in k else v for k, v in model.params.items()}
    )


def sigmoid_net() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 12, 5, 2, 2), nn.Sigmoid(), nn.Conv2d(12, 12, 5, 1, 2), nn.Sigmoid(), nn.Flatten(),
            nn.Linear(192, CLASSES),
        )  # fmt: skip
    return model_of(net)


def gradient_of(model: Model, z: Tensor, labels: Tensor = LABEL) -> dict[str, Tensor]:
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    loss = model.loss(params, z, labels)
    return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def activations(flow: Dataflow, z: Tensor) -> Mapping[str, Tensor]:
    names = [n.name for n in flow]
    return dict(zip(names, flow.until(names)(z), strict=True))


def test_the_dataflow_is_the_network() -> None:
    model = residual()
    flow, z = Dataflow(model), numbers(1, 3, 8, 8)
    torch.testing.assert_close(flow.until([flow.output.name])(z)[0], model.logits(model.params, z))
    kinds = {str(n.target): flow.kind(n) for n in flow if n.op == "call_module"}
    assert {"affine"} == {kinds[k] for k in ("stem", "norm", "down1", "fc")}
    assert kinds["relu"] == "relu"


class Branching(nn.Module):
    """Decides by its values, which no trace can follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)


def test_networks_that_cannot_be_followed_are_named() -> None:
    with pytest.raises(NotApplicable, match="trace"):
        Dataflow(model_of(nn.Sequential(Branching(), nn.Linear(192, 2))))
    training = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), residual().input, training=True)
    with pytest.raises(NotApplicable, match="train mode"):
        Dataflow(training)


def test_a_residual_network_is_read_back_from_a_float32_gradient() -> None:
    model, z = residual(), numbers(1, 3, 8, 8)
    flow = Dataflow(model)
    gradient = {k: v.float() for k, v in gradient_of(model, z).items()}
    recursion = Recursion(flow, gradient)
    recursion.run()
    truth = activations(flow, z)
    assert {n.name for n, f in recursion.facts.items() if f.complete} >= {"relu", "relu_1", "relu_2", "relu_3", "add"}
    for node, fact in recursion.facts.items():
        wanted = truth[node.name]
        assert ((fact.value - wanted)[fact.known].abs() < 1e-4 * wanted.abs().max()).all(), node.name


def test_a_sigmoid_network_is_read_back_to_the_picture() -> None:
    model, z = sigmoid_net(), numbers(1, 3, 8, 8)
    known = known_activations(model, gradient_of(model, z))
    assert known.picture is not None
    assert known.suffices
    torch.testing.assert_close(known.picture, z, rtol=1e-4, atol=1e-4)
    assert known.inverted(stream(0, "test"), UNWATCHED) is known.picture


@pytest.mark.parametrize("make", [residual, sigmoid_net])
def test_nothing_is_read_from_the_gradient_of_two_examples(make: Callable[[], Model]) -> None:
    model = make()
    gradient = gradient_of(model, numbers(2, 3, 8, 8), torch.tensor([3, 4]))
    with pytest.raises(NotApplicable, match="no layer's input"):
        known_activations(model, gradient)


def test_a_hidden_unit_is_found_by_the_gradient() -> None:
    """A unit fires so weakly that rounding hides it; the rows of its channel give it away."""
    with torch.random.fork_rng():
        convs = [nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 12), (12, 20), (20, 20))]
        layers = [layer for conv in convs for layer in (conv, nn.ReLU())]
        net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(1280, CLASSES))
    model, z = model_of(net), numbers(1, 3, 8, 8)
    bias = model.params["2.bias"].clone()
    bias[5] += 1e-12 - activations(Dataflow(model), z)["_2"][0, 5, 4, 4]
    model = model.with_params({**model.params, "2.bias": bias})
    gradient = {k: v.float() for k, v in gradient_of(model, z).items()}
    recursion = Recursion(Dataflow(model), gradient)
    recursion.run()
    (forced,) = recursion.forced.values()
    assert forced[0, 5, 4, 4] == 1
    assert forced.count_nonzero() == 1
    picture = recursion.facts[recursion.flow.nodes[0]]
    assert picture.complete
    torch.testing.assert_close(picture.value, z, rtol=1e-4, atol=1e-4)


def test_a_picture_is_found_by_its_activations() -> None:
    model, z = residual(), 0.3 * numbers(1, 3, 8, 8)
    known = KnownActivations(model, {"relu_1": activations(Dataflow(model), z)["relu_1"]}, None)
    assert float(known.distance(z)) < 1e-12
    found = known.inverted(stream(0, "test"), UNWATCHED)
    assert float((found - z).pow(2).mean()) < 1e-4 * float(z.pow(2).mean())
    stacked = known.distances(torch.stack([z, found]))
    torch.testing.assert_close(stacked, torch.stack([known.distance(z), known.distance(found)]))


def test_the_note_on_what_was_recovered_names_a_few_layers() -> None:
    values = {f"relu_{k}": numbers(1, 2) for k in range(40)}
    assert KnownActivations(residual(), values, None).described() == "relu_0, relu_1, relu_2, ... (40 in all)"
    assert KnownActivations(residual(), {"relu_1": numbers(1, 2)}, None).described() == "relu_1"


class Aliasing(nn.Module):
    """Changes a value that is used again: what a trace with copies computes is another network."""

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)[:, :10] + 0
        return torch.relu_(h) + h * 2


class InPlace(nn.Module):
    """A sum in place by a method, whose value is used: copies compute the same."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 20, 3, padding=1), nn.Linear(1280, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x).mul(2).add_(x.mean())
        return self.fc(torch.relu(out).flatten(1))


class Split(nn.Module):
    """Hands on pieces of a value, which are no values that a trace keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 20, 3, padding=1), nn.Linear(640, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        left, right = torch.relu(self.conv(x)).chunk(2, 1)
        return self.fc((left * (right > 0.1)).flatten(1))


class Optional(nn.Module):
    """May take more than the picture, as vision transformers do; by default it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor, shift: Tensor | None = None, is_causal: bool = False) -> Tensor:
        x = functional.scaled_dot_product_attention(x, x, x, is_causal=is_causal)
        return self.fc((x if shift is None else x + shift).flatten(1))


class Needing(nn.Module):
    """Takes more than the picture."""

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return (x + shift).flatten(1)


def test_what_a_network_may_take_besides_has_its_default() -> None:
    model, z = model_of(Optional()), numbers(1, 3, 8, 8)
    flow = Dataflow(model)
    assert [n.op for n in flow].count("placeholder") == 1
    torch.testing.assert_close(flow.until([flow.output.name])(z)[0], model.logits(model.params, z))
    traced = model.own_module()
    kind = type(traced)
    assert type(_traced(traced)) is not kind
    assert type(traced) is kind, "the network itself is as it was"
    with pytest.raises(NotApplicable, match="trace"):
        _traced(Needing())


@pytest.mark.parametrize("network", [InPlace, Split, Optional])
def test_activations_of_unusual_networks_agree_at_the_truth(network: type[nn.Module]) -> None:
    model, z = model_of(network()), numbers(1, 3, 8, 8)
    known = known_activations(model, gradient_of(model, z))
    assert float(known.distance(z)) < 1e-10


def aliasing() -> nn.Module:
    return nn.Sequential(Aliasing(), nn.Linear(10, CLASSES))


def test_what_is_traced_wrongly_is_refused() -> None:
    model, z = model_of(aliasing()), numbers(1, 3, 8, 8)
    with pytest.raises(NotApplicable, match=r"torch\.fx"):
        known_activations(model, gradient_of(model, z))


def test_a_bias_without_gradient_tells_no_factor() -> None:
    model, z = residual(), numbers(1, 3, 8, 8)
    gradient = gradient_of(model, z)
    for name in gradient:
        if name.endswith("bias") and name != "fc.bias":
            gradient[name] = torch.zeros_like(gradient[name])
    recursion = Recursion(Dataflow(model), gradient)
    recursion.run()
    assert all(fact.value.isfinite().all() for fact in recursion.facts.values())


class Answering(torch.nn.Module):
    """A network that answers with a mapping, a tuple, or its logits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body, self.kind = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 10)), kind

    def forward(self, z):
        logits = self.body(z)
        return (
            {"features": z, "logits": logits}
            if self.kind == "dict"
            else (logits, z)
            if self.kind == "tuple"
            else logits
        )


@pytest.mark.parametrize("kind", ["dict", "tuple", "plain"])
def test_a_network_that_answers_with_more_than_logits_is_traced(kind: str) -> None:
    model = Model.of(Answering(kind), ImageSpec((3, 8, 8)))
    flow, z = Dataflow(model), randn((1, 3, 8, 8), stream(0), torch.zeros((), dtype=torch.float64))
    double = model.to("cpu", torch.float64)
    traced = flow._through(z)[flow.output]
    assert torch.allclose(traced, double.logits(double.params, z), atol=1e-12)
