"""From features down to the inputs of fully connected networks, against plain PyTorch in float64."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.rng import randn, stream
from fedspill.inversion.disaggregation import fully_connected
from fedspill.inversion.disaggregation.fully_connected import certified, descend, undone
from fedspill.inversion.disaggregation.readout import Disaggregated, disaggregate
from fedspill.inversion.network.activations import Invertible
from fedspill.inversion.network.dense import Dense
from tests.support.heads import LIKE, nearest

LABELS = torch.tensor([1, 4, 4])
ACTIVATIONS: list[Callable[[], Invertible]] = [nn.ReLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.Softplus]


def near(drawn: Tensor) -> Tensor:
    return 0 * drawn[:, :, 0]


def far(drawn: Tensor) -> Tensor:
    return 1 + near(drawn)


class Network:
    """40 inputs, two hidden layers, 10 classes; its gradient and what its head tells."""

    def __init__(self, activation: Invertible, bias: bool = True, width: int = 24) -> None:
        rng, sizes = stream(0, "test", "network"), [40, 32, width, 10]
        self.params = dict[str, Tensor]()
        for k, (d, out) in enumerate(itertools.pairwise(sizes)):
            self.params[f"{k}.weight"] = (2 * randn((out, d), rng, LIKE) / d**0.5).requires_grad_()
            if bias:
                self.params[f"{k}.bias"] = (0.3 * randn((out,), rng, LIKE)).requires_grad_()
        names = [(f"{k}.weight", f"{k}.bias" if bias else None) for k in range(3)]
        self.layers = [Dense(w, b, activation if w != "2.weight" else None) for w, b in names]
        self.x = randn((3, 40), rng, LIKE)
        h = self.x
        for layer in self.layers:
            self.features = h
            h = functional.linear(h, self.params[layer.weight], None if layer.bias is None else self.params[layer.bias])
            h = h if layer.activation is None else layer.activation.forward(h)
        grads = torch.autograd.grad(functional.cross_entropy(h, LABELS), list(self.params.values()))
        self.gradient = dict(zip(self.params, grads, strict=True))
        self.params = {k: v.detach() for k, v in self.params.items()}

    def told(self, non_negative: bool = False) -> Disaggregated:
        rows, bias = self.gradient["2.weight"], LIKE.new_zeros(10)
        if "2.bias" in self.gradient:
            rows, bias = torch.cat([rows, self.gradient["2.bias"][:, None]], 1), self.params["2.bias"]
        return disaggregate(
            rows,
            self.params["2.weight"],
            bias,
            LABELS,
            non_negative=non_negative,
            rng=stream(0, "test", "starts"),
            noise=1e-12,
        )


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.__name__)
def test_inputs_are_exact_behind_every_activation(activation: Callable[[], Invertible]) -> None:
    net = Network(activation())
    told = net.told(activation in (nn.ReLU, nn.Sigmoid, nn.Softplus))
    down = descend(net.layers, net.params, net.gradient, told)
    assert down.left == 0
    assert float(nearest(down.inputs, net.x).max()) < 1e-5
    assert down.unshown < 1e-5
    assert bool(certified(down, told, near).all())
    assert not bool(certified(down, told, far).any())


@pytest.mark.parametrize("bias", [True, False])
def test_layers_without_biases(bias: bool) -> None:
    net = Network(nn.ReLU(), bias)
    down = descend(net.layers, net.params, net.gradient, net.told(True))
    assert float(nearest(down.inputs, net.x).max()) < 1e-5


def test_a_multiple_of_the_gradient() -> None:
    net = Network(nn.ReLU())
    told = net.told(True)
    sent = {k: 0.2 * v for k, v in net.gradient.items()}
    down = descend(net.layers, net.params, sent, told, 0.2)
    assert down.unshown < 1e-6
    assert float(nearest(down.inputs, net.x).max()) < 1e-5


def test_features_near_zero_do_not_spoil_the_mask() -> None:
    net = Network(nn.ReLU())
    told = net.told(True)
    moved = told.features + 1e-4 * randn(tuple(told.features.shape), stream(2, "test", "moved"), LIKE)
    down = descend(net.layers, net.params, net.gradient, replace(told, features=moved))
    assert float(nearest(down.inputs, net.x).max()) < 1e-2
    assert down.unshown < 1e-2


def test_too_few_outputs_and_a_mask_that_is_uncertain_near_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fully_connected, "SPARE", 100)  # no layer has as many outputs
    net = Network(nn.ReLU())
    told = net.told(True)
    moved = told.features + 1e-7 * randn(tuple(told.features.shape), stream(2, "test", "moved"), LIKE)
    assert bool(((moved > 0) != (told.features > 1e-9)).any())
    down = descend(net.layers, net.params, net.gradient, replace(told, features=moved))
    assert float(nearest(down.inputs, net.x).max()) < 1e-4
    assert down.unshown < 1e-4


def test_wrong_features_are_not_certified() -> None:
    net = Network(nn.ReLU())
    told = net.told(True)
    mixed = told.features.clone()
    mixed[1] = told.features.mean(0)
    wrong = replace(told, features=mixed)
    down = descend(net.layers, net.params, net.gradient, wrong)
    assert not bool(certified(down, wrong, near)[1])
    assert not bool(certified(down, wrong, far).any())


def test_what_noise_may_have_moved_is_certified_by_the_redraws_alone() -> None:
    net = Network(nn.ReLU())
    noised = {
        k: v + 1e-4 * v.square().mean().sqrt() * randn(tuple(v.shape), stream(3, "test", k), LIKE)
        for k, v in net.gradient.items()
    }
    net.gradient = noised
    told = net.told(True)
    down = descend(net.layers, net.params, net.gradient, told)
    assert down.again is not None
    expected = (down.again.inputs - down.inputs).square().sum(2).mean(0).sqrt() / down.inputs.norm(dim=1)
    true = nearest(net.x, down.inputs)
    order = torch.cdist(down.inputs, net.x).argmin(1)
    assert bool((true[order] < 4 * expected).all())
    assert bool((true[order] > expected / 10).all())
    assert certified(down, told, near).tolist() == [True, True, True]
    assert not bool(certified(down, replace(told, fits=False, certain=told.certain & False), near).any())


def test_a_layer_that_was_not_sent_ends_the_descent_and_is_named() -> None:
    net = Network(nn.ReLU())
    sent = {k: v for k, v in net.gradient.items() if not k.startswith("0")}
    down = descend(net.layers, net.params, sent, net.told(True))
    assert (down.left, down.ended) == (1, "'0.weight': its gradient was not sent")


def test_a_layer_whose_gradient_lacks_an_example_ends_the_descent() -> None:
    net = Network(nn.ReLU(), width=24)
    short = dict(net.gradient)
    whole = torch.cat([short["0.weight"], short["0.bias"][:, None]], 1)
    left, sizes, right = torch.linalg.svd(whole, full_matrices=False)
    cut = left[:, :2] * sizes[:2] @ right[:2]
    short |= {"0.weight": cut[:, :-1], "0.bias": cut[:, -1]}
    down = descend(net.layers, net.params, short, net.told(True))
    assert (down.left, down.ended) == (1, "'0.weight': its gradient has not the rank of 3 examples")


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: a.__name__)
def test_what_is_undone_is_what_entered(activation: Callable[[], Invertible]) -> None:
    entered = torch.linspace(-3, 3, 13, dtype=torch.float64)[None] + 0.01
    outputs = activation().forward(entered.clone())
    back, weight = undone(activation(), outputs)
    assert torch.allclose(back[weight > 0], entered[weight > 0], atol=1e-9)
    assert bool((weight > 0)[entered > 0.1].all())
