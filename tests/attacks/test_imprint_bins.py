"""Bins of an imprint, read by somebody who did not plant them, beside whoever did."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fedspill.attacks.imprint_bins import ImprintBins
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Tampered
from fedspill.core.types import Batch, Reconstruction
from fedspill.inversion.discovery.imprint import found_imprints
from fedspill.inversion.imprint.making import Bins
from fedspill.tamperings.loki import Loki
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.tamperings.robbing_the_fed import ImprintModule, RobbingTheFed
from tests.support.worlds import SPEC, batch, conv_bn, draw_weights, relu_mlp

F64 = torch.float64
EXACT = 1e-6
N = 6


def read(model: Model, private: Batch) -> Reconstruction:
    update = local_update(model, private, FedSGD())
    return ImprintBins().reconstruct(update, ServerKnowledge(model, num_examples=len(private)), stream(0, "read"))


def exact(rebuilt: Reconstruction, private: Batch) -> int:
    far = (rebuilt.inputs[:, None] - private.inputs[None]).flatten(2).abs().amax(2)
    return int((far.amin(0) < EXACT).sum()) if len(far) else 0


def alone(planted: Tampered, private: Batch) -> int:
    """How many the one who planted the rows must find."""
    z = planted.model.input.encode(private.inputs)
    return int(planted.readout.predict(planted.model, z).recoverable.sum())  # pyright: ignore


def planted(tampering: RobbingTheFed | RobbingLinearLayer | Loki, model: Model) -> Tampered:
    return tampering.tamper(model, None, 0, stream(0, "server"))


WAYS = {
    "bins": RobbingTheFed(Bins(32, ("random",))),
    "shuffled among ordinary rows": RobbingTheFed(
        Bins(32, ("random",)), module=ImprintModule(ordinary_rows=32, shuffle=True)
    ),
    "cut off": RobbingTheFed(Bins(32, ("random",)), module=ImprintModule(activation="hardtanh")),
    "no second layer": RobbingTheFed(Bins(32, ("random",)), module=ImprintModule(connection="addition")),
    "several functions": RobbingTheFed(Bins(64, ("random", "random")), decode="peel"),
    "its own layer": RobbingLinearLayer(),
}


@pytest.mark.parametrize("way", WAYS)
def test_as_many_examples_as_the_secret_tells_are_read(way: str) -> None:
    sent, private = planted(WAYS[way], relu_mlp(dtype=F64)), batch(N, dtype=F64)
    expected = alone(sent, private)
    assert expected >= 2, "the test would say nothing"
    assert exact(read(sent.model, private), private) >= expected


def test_rows_behind_convolutions_that_hand_the_picture_on() -> None:
    sent, private = planted(Loki(Bins(64, ("random",))), conv_bn(dtype=F64)), batch(N, dtype=F64)
    assert exact(read(sent.model, private), private) >= 2


def changed(sent: Tampered, change: str) -> Model:
    """The planted layer hidden: in another order, or each row with a factor that the layer behind takes back."""
    found = found_imprints(sent.model)[0]
    params, (weight, bias) = dict(sent.model.params), (found.layer.weight, found.layer.bias)
    after = list(params)[list(params).index(bias) + 1]
    rows = len(params[bias])
    if change == "order":
        order = torch.randperm(rows, generator=stream(1, "order"))
        params |= {weight: params[weight][order], bias: params[bias][order], after: params[after][:, order]}
    if change == "factors":
        by: Tensor = 0.1 + rand((rows,), stream(1, "factors"), params[bias])
        params |= {weight: params[weight] * by[:, None], bias: params[bias] * by, after: params[after] / by}
    if change == "noise":
        size = params[weight].norm(dim=1, keepdim=True) / params[weight].shape[1] ** 0.5
        noise = randn(tuple(params[weight].shape), stream(1, "noise"), params[weight])
        params[weight] = params[weight] + 1e-3 * size * noise
    return replace(sent.model, params=params)


@pytest.mark.parametrize("change", ["order", "factors", "noise"])
def test_hiding_the_rows_does_not_hide_the_examples(change: str) -> None:
    sent, private = planted(WAYS["its own layer"], relu_mlp(dtype=F64)), batch(N, dtype=F64)
    expected = alone(sent, private)
    assert expected >= 2
    assert exact(read(changed(sent, change), private), private) >= expected - (change == "noise")


def test_an_honest_network_has_no_bins() -> None:
    for model in (relu_mlp(dtype=F64), conv_bn(dtype=F64)):
        with pytest.raises(NotApplicable, match="six rows"):
            read(model, batch(2, dtype=F64))


def test_rows_of_one_direction_behind_a_network_that_shows_no_input() -> None:
    made = nn.Sequential(nn.Flatten(), nn.Linear(192, 24), nn.Tanh(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 10))
    model = Model.of(made.double(), SPEC)
    direction = torch.linspace(-1, 1, 24, dtype=F64)
    model = model.with_params({**model.params, "3.weight": direction.expand(12, -1).clone()})
    with pytest.raises(NotApplicable, match="3"):
        read(model, batch(2, dtype=F64))


def test_rows_of_a_table() -> None:
    spec = TableSpec(tuple(NumericColumn(f"c{i}", mean=0.5, std=0.3, low=0.0, high=1.0) for i in range(30)))
    net = nn.Sequential(nn.Linear(30, 24), nn.ReLU(), nn.Linear(24, 3))
    sent = planted(WAYS["its own layer"], Model.of(draw_weights(net), spec).to("cpu", F64))
    private = Batch(rand((N, 30), stream(0, "table"), torch.zeros((), dtype=F64)), torch.arange(N) % 3)
    expected = alone(sent, private)
    assert expected >= 2
    assert exact(read(sent.model, private), private) >= expected
