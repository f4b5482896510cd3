"""The published recursion against the picture, and its least squares against LAPACK's."""

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.inversion.recursion.chain import ChainReading, least_squares, read_chain
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Recursion
from fedspill.inversion.recursion.single_head import heads_of_one
from fedspill.testing.worlds import draw_weights
from tests.support.chains import FEW, chain, gradient_of, opposite, picture

LIKE = torch.zeros((), dtype=torch.float64)


def numbers(*shape: int, name: str = "x") -> Tensor:
    return randn(shape, stream(0, "test", name), LIKE)


def read(model: Model, z: Tensor, label: Tensor, *, balanced: bool = False) -> ChainReading:
    flow, gradient = Dataflow(model), gradient_of(model, z, label)
    (head,) = heads_of_one(model, flow, gradient, label)
    return read_chain(flow, gradient, head, balanced=balanced)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_chain_is_read_back_to_the_picture(*, balanced: bool, bias: bool) -> None:
    model, z = chain(bias=bias), picture()
    found = read(model, z, opposite(model, z), balanced=balanced)
    torch.testing.assert_close(found.picture, z, rtol=1e-6, atol=1e-6)
    assert [(s.layer, s.values, s.open) for s in found.layers] == [("2", 150, 0), ("0", 128, 0)]
    assert "every layer" in found.described()


def test_the_projects_recursion_goes_through_leaky_activations_and_a_head_without_bias() -> None:
    model, z = chain(), picture()
    flow, label = Dataflow(model), opposite(model, z)
    gradient = gradient_of(model, z, label)
    (head,) = heads_of_one(model, flow, gradient, label)
    recursion = Recursion(flow, gradient, head)
    recursion.run()
    torch.testing.assert_close(recursion.facts[flow.nodes[0]].value, z, rtol=1e-6, atol=1e-6)


def test_directions_that_are_open_are_counted_and_left_at_the_shortest() -> None:
    model, z = chain(FEW), picture()
    found = read(model, z, opposite(model, z))
    assert found.layers[0].open > 0
    assert f"2 ({found.layers[0].open} of 150)" in found.described()
    assert (found.picture - z).norm() > 1e-3 * z.norm()


@pytest.mark.parametrize(("equations", "outputs"), [(9, 12), (3, 4), (3, 0)])
def test_least_squares_are_those_of_the_stacked_matrix(equations: int, outputs: int) -> None:
    rows, targets = numbers(equations, 5), numbers(equations, 2, name="t")
    weights, wanted = numbers(10, outputs, name="w"), numbers(outputs, name="o")
    x, left = least_squares(rows, targets, weights, wanted)
    stacked = torch.cat([torch.block_diag(rows, rows), weights.T])
    plain = torch.linalg.lstsq(stacked, torch.cat([targets.T.flatten(), wanted]), driver="gelsd").solution
    torch.testing.assert_close(x.T.flatten(), plain, rtol=1e-8, atol=1e-10)
    assert left == 10 - int(torch.linalg.matrix_rank(stacked))


class Summing(nn.Module):
    """No chain."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.Linear(128, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.conv(x) + x).flatten(1))


def sequential(*layers: nn.Module, features: int = 128) -> Model:
    net = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), *layers, nn.Flatten(), nn.Linear(features, 3))
    return Model.of(draw_weights(net), ImageSpec((2, 8, 8))).to("cpu", torch.float64)


def test_networks_that_the_paper_does_not_cover_are_refused_by_name() -> None:
    label = torch.tensor([1])
    with torch.random.fork_rng():
        cases = (
            (sequential(nn.ReLU()), "'_1' cannot be undone"),
            (sequential(nn.AvgPool2d(2), features=32), "'_1' cannot be undone"),
            (sequential(nn.LeakyReLU(0.0)), "'_1' cannot be undone"),
            (sequential(nn.Conv2d(2, 2, 3, padding=1, groups=2)), "'_1' has groups"),
            (Model.of(draw_weights(Summing()), ImageSpec((2, 8, 8))).to("cpu", torch.float64), "no chain"),
        )
    for model, said in cases:
        with pytest.raises(NotApplicable, match=said):
            read(model, picture(), label)


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.3), nn.PReLU(4), nn.RReLU(), nn.PReLU()])
def test_leaky_activations_are_undone_as_they_are(activation: nn.Module) -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), activation, nn.Flatten(), nn.Linear(256, 3))
    if isinstance(activation, nn.PReLU):
        activation.weight.data = torch.linspace(0.1, 0.7, len(activation.weight))
    model = Model.of(net, ImageSpec((2, 8, 8))).to("cpu", torch.float64)
    found = read(model, picture(), torch.tensor([1]))
    torch.testing.assert_close(found.picture, picture(), rtol=1e-6, atol=1e-6)


def test_the_slope_at_0_is_pytorchs_and_a_falling_one_is_not_undone() -> None:
    model = sequential(nn.LeakyReLU(0.3))
    flow = Dataflow(model)
    node = next(n for n in flow if flow.kind(n) == "leaky")
    below = flow.below(node)
    assert below is not None
    torch.testing.assert_close(below, torch.full_like(below, 0.3))
    falling = model.with_params(model.params)
    falling.module[1].negative_slope = -0.3
    flow = Dataflow(falling)
    assert not [n for n in flow if flow.kind(n) == "leaky"]
