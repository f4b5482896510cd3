"""GroupNorm for BatchNorm: the same names, the plain layer's values, and no statistics."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.inputs import NumericColumn, TableSpec
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.defences.group_norm import GroupNorm
from tests.support.defences import audit
from tests.support.worlds import SPEC, batch, conv_bn, mlp


def prepared(model: Model, groups: int = 32) -> Model:
    return GroupNorm(groups).stages().prepare(model)


def of(*layers: nn.Module, training: bool = False) -> Model:
    return Model.of(nn.Sequential(*layers), SPEC, training=training)


@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_same_network_with_plain_group_norms(training: bool) -> None:
    model = conv_bn(training=training, dtype=torch.float64)
    made = prepared(model, 3)
    z = SPEC.encode(batch(2, dtype=torch.float64).inputs)
    p = {k: v.clone() for k, v in model.params.items()}
    x = functional.conv2d(z, p["0.weight"], p["0.bias"], 2, 1)
    x = functional.group_norm(x, 3, p["1.weight"], p["1.bias"], 1e-5).sigmoid()
    x = functional.conv2d(x, p["3.weight"], p["3.bias"], 2, 1).sigmoid().flatten(1)
    torch.testing.assert_close(made.logits(made.params, z), functional.linear(x, p["6.weight"], p["6.bias"]))
    assert dict(made.params) == dict(model.params)
    assert made.buffers == {}
    assert made.training is training
    assert isinstance(model.module.get_submodule("1"), nn.BatchNorm2d), "the caller's network stays as it was"


def test_examples_are_independent_and_no_statistics_are_sent() -> None:
    model = prepared(conv_bn(training=True, dtype=torch.float64))
    private = batch(3, dtype=torch.float64)
    sent = local_update(model, private, FedSGD())
    assert not sent.buffers
    alone = [local_update(model, private[i : i + 1], FedSGD()).values for i in range(3)]
    for name, value in sent.values.items():
        torch.testing.assert_close(value, torch.stack([a[name] for a in alone]).mean(0))


@pytest.mark.parametrize(
    ("channels", "size", "groups", "expected"),
    [(48, 8, 32, 24), (6, 8, 32, 6), (7, 8, 4, 1), (64, 1, 32, 8), (8, 1, 32, 1), (4, 1, 32, 1), (12, 2, 32, 6)],
)
def test_groups_divide_the_channels_and_hold_enough(channels: int, size: int, groups: int, expected: int) -> None:
    with torch.random.fork_rng():
        model = of(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(size), nn.BatchNorm2d(channels), nn.Flatten())
    layer = prepared(model, groups).module.get_submodule("2")
    assert (type(layer), layer.num_groups, layer.num_channels) == (nn.GroupNorm, expected, channels)


def test_features_of_a_table_and_a_layer_without_scale() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16, eps=1e-3, affine=False), nn.ReLU(), nn.Linear(16, 3))
    columns = tuple(NumericColumn(name, 0.0, 1.0, -9.0, 9.0) for name in "abcd")
    made = prepared(Model.of(net, TableSpec(columns)))
    layer = made.module.get_submodule("1")
    assert (layer.num_groups, layer.eps, layer.affine) == (2, 1e-3, False)
    assert list(made.params) == ["0.weight", "0.bias", "3.weight", "3.bias"]


def test_a_single_value_and_a_layer_that_does_more_are_refused() -> None:
    with torch.random.fork_rng():
        single = of(nn.Conv2d(3, 1, 8), nn.BatchNorm2d(1), nn.Flatten())
        more = of(nn.Conv2d(3, 4, 1), WithActivation(4), nn.Flatten())
        own = Model.of(Own(), SPEC)
    with pytest.raises(BadInput, match="'1' normalises a single value of each example"):
        prepared(single)
    with pytest.raises(BadInput, match="'1' is a WithActivation, which may do more"):
        prepared(more)
    with pytest.raises(BadInput, match="does not run with GroupNorm for BatchNorm"):
        prepared(own)
    with pytest.raises(BadInput, match="groups=0 must be at least 1"):
        GroupNorm(0)


class WithActivation(nn.BatchNorm2d):
    """As timm's BatchNormAct2d."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input).relu()


class Own(nn.Module):
    """It looks at the statistics itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fc = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x - self.norm.running_mean[:, None, None]).flatten(1))


def test_a_network_without_stays_and_a_layer_in_two_places_stays_one() -> None:
    model = mlp()
    assert prepared(model) is model
    with torch.random.fork_rng():
        norm = nn.BatchNorm2d(3)
        shared = of(norm, nn.ReLU(), norm, nn.Flatten(), nn.Linear(192, 10))
    made = prepared(shared)
    assert made.module.get_submodule("0") is made.module.get_submodule("2")
    assert list(made.params) == list(shared.params)


SHORT = [{"name": "inverting_gradients", "preset": "quick", "steps": 2}]


def test_an_audit_in_train_mode_has_no_statistics_left() -> None:
    plain, made = (audit(d, SHORT, model=conv_bn(training=True)).report for d in ([], [{"name": "group_norm"}]))
    assert plain.trials[0].self_check == pytest.approx(0, abs=1e-6)
    assert made.trials[0].self_check == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("model", "idle"), [(mlp(), True), (conv_bn(), False)])
def test_a_report_says_where_it_had_nothing_to_change(model: Model, idle: bool) -> None:
    report = audit([{"name": "group_norm"}], SHORT, model=model).report
    said = [c.text for c in report.caveats if c.topic == "idle defence"]
    assert [text.startswith("group_norm found nothing to change") for text in said] == [True] * idle
