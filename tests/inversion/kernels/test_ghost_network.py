"""What layers tell of their gradients against the gradients themselves."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.local_training.update import FedAvg, FedSGD, encoded_update, local_update
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.types import Params, Update
from fedspill.inversion.kernels import ghost_layers, ghost_network
from fedspill.inversion.kernels.convolution import Geometry, correlate
from fedspill.inversion.kernels.winograd import best_tile, convolve
from fedspill.inversion.kernels.winograd_network import WinogradConv2d, with_winograd
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from tests.support.networks import DOUBLE, Viewing, network, plain
from tests.support.worlds import CLASSES, SPEC, batch, draw_weights

LIKE = torch.zeros((), dtype=DOUBLE)


def numbers(*shape: int, name: str = "x") -> torch.Tensor:
    return randn(shape, stream(0, "test", name), LIKE).requires_grad_()


@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize(("height", "width", "padding"), [(9, 7, 1), (8, 8, 0), (4, 5, 1)])
def test_winograd_is_the_convolution_with_all_its_derivatives(m: int, height: int, width: int, padding: int) -> None:
    x, weight = numbers(2, 2, height, width), numbers(3, 2, 3, 3, name="w")
    torch.testing.assert_close(convolve(x, weight, m, padding), functional.conv2d(x, weight, padding=padding))
    assert torch.autograd.gradcheck(lambda a, b: convolve(a, b, m, padding), (x, weight))
    assert torch.autograd.gradgradcheck(lambda a, b: convolve(a, b, m, padding), (x, weight))


def test_winograd_is_taken_where_it_saves() -> None:
    assert best_tile(1, (32, 32), 256, 256) == 4
    assert best_tile(1, (32, 32), 3, 64) == 0  # too few channels for the transforms
    assert best_tile(1, (4, 4), 512, 512) == 0  # too few places for the transformed weights


@pytest.mark.parametrize(("n", "outside", "stride", "groups"), [(1, 4, 1, 1), (2, 40, 2, 1), (2, 4, 1, 2)])
def test_the_bilinear_convolution_has_all_its_derivatives(n: int, outside: int, stride: int, groups: int) -> None:
    x, weight = numbers(n, 4, 5, 4), numbers(outside, 4 // groups, 3, 3, name="w")
    geometry = Geometry((stride, stride), (1, 1), (1, 1), groups, x.shape[1:], weight.shape)
    torch.testing.assert_close(correlate(geometry, x, weight), functional.conv2d(x, weight, None, stride, 1, 1, groups))
    assert torch.autograd.gradcheck(lambda a, b: correlate(geometry, a, b), (x, weight))
    assert torch.autograd.gradgradcheck(lambda a, b: correlate(geometry, a, b), (x, weight))


@pytest.fixture(params=["as chosen", "by tiles", "formed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks take the ways of large ones."""
    monkeypatch.setattr(ghost_network, "LARGE", 0)
    if request.param != "as chosen":
        monkeypatch.setattr(ghost_layers, "cheaper_unformed", lambda positions, inside, outside: False)
    if request.param == "by tiles":
        monkeypatch.setattr(ghost_layers, "best_tile", lambda n, shape, inside, outside: 2)


@pytest.mark.parametrize("kind", ["every layer", "scaled", "tied"])
@pytest.mark.parametrize("trainable", [("*",), ("*.weight",), ("*.bias",)])
@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.usefixtures("way")
def test_distance_and_gradients_are_those_of_the_formed_gradient(kind: str, trainable: tuple[str, ...], n: int) -> None:
    model, private, protocol = network(kind), batch(n, dtype=DOUBLE), FedSGD(trainable)
    matching = Matching(model, local_update(model, private, protocol), protocol, 1, DISTANCES["cosine"])
    stack, logits = numbers(3, n, *SPEC.shape), numbers(n, CLASSES, name="l")
    wanted = torch.stack([plain(matching, z, private.labels) for z in stack])
    (slope,) = torch.autograd.grad(wanted.sum(), stack)
    for found in (matching.each(stack, private.labels), torch.stack([matching(z, private.labels) for z in stack])):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        (got,) = torch.autograd.grad(found.sum(), stack)
        torch.testing.assert_close(got, slope, rtol=1e-10, atol=1e-10 * float(slope.abs().max()))
    soft = [f(matching, stack[0], logits.softmax(1)) for f in (Matching.__call__, plain)]
    got, want = (torch.autograd.grad(s, logits)[0] for s in soft)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10 * float(want.abs().max()))


def alone(update: Update) -> Params:
    """One observed update, in the shapes of many."""
    return {k: v[None] for k, v in update.values.items()}


def test_taps_are_trusted_only_where_they_tell_the_truth() -> None:
    private = batch(2, dtype=DOUBLE)
    one, two = (private.labels.expand(r, 2) for r in (1, 2))
    for kind, agrees, stackable in (("every layer", True, True), ("scaled", True, False), ("tied", False, False)):
        model = network(kind)
        taps = ghost_network.GhostNetwork(model, alone(local_update(model, private, FedSGD())))
        assert (taps.agrees(one), taps.stackable(two)) == (agrees, stackable)
    summed = Model.of(network("every layer").module, SPEC, nn.CrossEntropyLoss(reduction="sum"))
    taps = ghost_network.GhostNetwork(summed, alone(local_update(summed, batch(2), FedSGD())))
    assert (taps.agrees(one), taps.stackable(two)) == (True, False)


def test_every_factor_of_a_stack_reaches_its_own_candidate() -> None:
    model, private = network("every layer"), batch(2, dtype=DOUBLE)
    matching = Matching(model, local_update(model, private, FedSGD()), FedSGD(), 1, DISTANCES["cosine"])
    stack = numbers(2, 2, *SPEC.shape)
    (once,) = torch.autograd.grad(matching.each(stack, private.labels).sum(), stack)
    (scaled,) = torch.autograd.grad(matching.each(stack, private.labels) @ torch.tensor([1.0, 5.0]).to(LIKE), stack)
    torch.testing.assert_close(scaled, once * torch.tensor([1.0, 5.0]).to(LIKE).view(2, 1, 1, 1, 1))


def test_the_lean_model_is_the_model_and_keeps_out_where_it_would_break() -> None:
    with torch.random.fork_rng():
        head = [nn.Flatten(), nn.Linear(128 * 64, CLASSES)]
        convolutions = [nn.Conv2d(3, 128, 3, 1, 1), nn.Tanh(), nn.Conv2d(128, 128, 3, 1, 1), nn.Tanh()]
        flattens, views = nn.Sequential(*convolutions, *head), nn.Sequential(*convolutions, Viewing(), head[1])
    plain_model = Model.of(draw_weights(flattens), SPEC).to("cpu", DOUBLE)
    assert best_tile(8, (8, 8), 128, 128) > 0
    found = with_winograd(plain_model, 8)
    assert [type(m) is WinogradConv2d for m in found.module.modules()].count(True) == 2
    assert not any(type(m) is WinogradConv2d for m in plain_model.module.modules())
    z, private = numbers(8, *SPEC.shape), batch(8, dtype=DOUBLE)
    for protocol in (FedSGD(), FedAvg(epochs=2, lr=0.1)):
        got, want = (
            encoded_update(m, z, private.labels, protocol, create_graph=True).values for m in (found, plain_model)
        )
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-11)
        slopes = [torch.autograd.grad(sum(v.pow(3).sum() for v in u.values()), z)[0] for u in (got, want)]
        torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-9 * float(slopes[1].abs().max()))
    viewing = Model.of(draw_weights(views), SPEC)
    assert with_winograd(viewing, 8) is viewing


class Tempered(nn.Module):
    """With a parameter that is one number, as ReZero and temperatures have it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(SPEC.shape[0] * SPEC.shape[1] * SPEC.shape[2], CLASSES))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale


def test_a_parameter_may_be_one_number() -> None:
    model = Model.of(Tempered().double().eval(), SPEC)
    private = batch(2).to(LIKE)
    update = local_update(model, private, FedSGD())
    z = randn((2, *SPEC.encoded_shape), stream(0, "z"), LIKE)
    taps = ghost_network.GhostNetwork(model, {k: v[None] for k, v in update.values.items()})
    guess = encoded_update(model, z, private.labels, FedSGD()).values
    wanted = DISTANCES["cosine"](guess, update.values)
    found = taps.distances(z[None].requires_grad_(), private.labels[None])[0]
    torch.testing.assert_close(found.detach(), wanted)
