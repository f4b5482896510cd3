"""Ranks against those of the constraints' matrix, and how far the recursion comes against how far it came."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import Recursion
from fedspill.inversion.recursion.rank_analysis import _truth, rank_analysis
from fedspill.inversion.recursion.single_head import heads_of_one
from fedspill.testing.worlds import draw_weights
from tests.inversion.recursion.test_recursion import gradient_of, numbers, residual, sigmoid_net
from tests.support.chains import ENOUGH, FEW, HARDLY, chain, opposite, picture


def plain(model: Model, name: str, fires: bool) -> tuple[int, int]:
    """Ranks of the gradient constraints of a convolution, and of both kinds, by their Jacobian."""
    flow = Dataflow(model)
    truth = _truth(flow, model, 0)
    node = next(n for n in flow if str(n.target) == name)
    layer, x, cotangent = flow.module(node), truth.facts[flow.inputs(node)[0]].value, truth.cotangents[node]
    assert isinstance(layer, nn.Conv2d)

    def constraints(x: Tensor) -> tuple[Tensor, Tensor]:
        sent = nn.grad.conv2d_weight(x, layer.weight.shape, cotangent, layer.stride, layer.padding)
        out = layer(x)
        return sent.flatten(), out[truth.facts[node].value > 0] if fires else out.flatten()

    parts = torch.autograd.functional.jacobian(constraints, x)
    rows = [p.flatten(1) for p in parts]
    return int(torch.linalg.matrix_rank(rows[0])), int(torch.linalg.matrix_rank(torch.cat(rows)))


@pytest.mark.parametrize("widths", [ENOUGH, HARDLY, FEW])
@pytest.mark.parametrize("layer", ["0", "2"])
def test_ranks_are_those_of_the_constraints(widths: tuple[int, int], layer: str) -> None:
    model = chain(widths)
    found = next(r for r in rank_analysis(model) if r.layers == (layer,))
    assert (found.gradient, found.rank) == plain(model, layer, fires=False)
    assert found.exact
    assert found.determined == (found.rank == found.values)
    assert found.open == found.values - found.rank


def relu_net() -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(256, 3),
        )  # fmt: skip
    return Model.of(draw_weights(net), ImageSpec((2, 8, 8))).to("cpu", torch.float64)


def test_behind_a_relu_outputs_are_known_where_it_fires() -> None:
    model = relu_net()
    for name in ("0", "2"):
        found = next(r for r in rank_analysis(model) if r.layers == (name,))
        assert (found.gradient, found.rank) == plain(model, name, fires=True)


def unpooled() -> Model:
    """The pooling leaves positions out, so that the third layer's gradient lacks rank; the second one's does not."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 40, 3, padding=1), nn.ReLU(),
            nn.Conv2d(40, 40, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(160, 3),
        )  # fmt: skip
    return Model.of(draw_weights(net), ImageSpec((3, 5, 5))).to("cpu", torch.float64)


def test_what_is_known_below_is_known_above() -> None:
    ranks = rank_analysis(unpooled())
    assert [r.way is None for r in ranks] == [False, False, True, False]
    assert all(r.reached for r in ranks)


def came(model: Model, z: Tensor, label: Tensor) -> set[str]:
    """The layers whose inputs the recursion knows in the end."""
    flow, gradient = Dataflow(model), gradient_of(model, z, label)
    recursion = Recursion(flow, gradient, heads_of_one(model, flow, gradient, label)[0])
    recursion.run()
    calls = [n for n in flow if isinstance(flow.module(n), nn.Conv2d | nn.Linear)]
    return {str(n.target) for n in calls if recursion.complete(flow.inputs(n)[0])}


@pytest.mark.parametrize(
    "make", [chain, lambda: chain(FEW), lambda: chain(HARDLY), unpooled, relu_net, residual, sigmoid_net]
)
def test_the_recursion_comes_as_far_as_the_ranks_say(make: Callable[[], Model]) -> None:
    model = make()
    channels = model.input.encoded_shape[0]
    z = numbers(1, *model.input.encoded_shape) if channels == 3 else picture()
    label = opposite(model, z) if model.logits(model.params, z).shape[1] == 1 else torch.tensor([2])
    told = {name for r in rank_analysis(model) if r.reached for name in r.layers}
    assert came(model, z, label) == told


def pooled(width: int, stride: int = 1) -> Model:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, width, 3, stride, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3)
        )
    return Model.of(draw_weights(net), ImageSpec((3, 5, 5))).to("cpu", torch.float64)


@pytest.mark.parametrize(("width", "stride", "way"), [(40, 1, "patches"), (20, 1, None), (40, 2, None)])
def test_behind_a_pooling_only_the_rank_of_the_gradient_tells_anything(width: int, stride: int, way: str) -> None:
    first, head = rank_analysis(pooled(width, stride))
    assert (first.way, first.gradient, head.way) == (way, 0, "head")


def test_a_layer_that_is_too_large_is_counted_and_said_to_be() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(1, 2, 8, 8), nn.Tanh(), nn.Flatten(), nn.Linear(84, 3))
    found = rank_analysis(Model.of(net, ImageSpec((1, 50, 60))))[0]
    assert (found.exact, found.way, found.gradient) == (False, None, 128)
    assert found.rank == 128 + 2 * 6 * 7


def test_what_cannot_be_analysed_is_refused() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten())
    with pytest.raises(NotApplicable, match="does not end in a linear layer"):
        rank_analysis(Model.of(net, ImageSpec((1, 4, 4))))
