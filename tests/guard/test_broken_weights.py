"""Weights that are no numbers or zeros: found where they are, and honest models left in peace."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fedspill
from fedspill.cli.main import app
from fedspill.core.model import Model
from fedspill.core.roles import Finding, Incoming
from fedspill.core.tensor_files import write_tensors
from fedspill.guard.broken_weights import BrokenWeights
from fedspill.zoo.models import build
from tests.support.worlds import SPEC, conv_bn, mlp, relu_mlp


def changed(net: nn.Module, name: str, value: float, *, whole: bool = False) -> nn.Module:
    tensor = dict([*net.named_parameters(), *net.named_buffers()])[name].data
    tensor.fill_(value) if whole else tensor.view(-1)[:1].fill_(value)
    return net


def network() -> nn.Module:
    return conv_bn().own_module()


def broken(found: list[Finding]) -> list[Finding]:
    return [f for f in found if f.check == "broken_weights"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["0.weight", "6.weight", "6.bias", "1.running_var"])
def test_numbers_that_are_none_are_a_severe_finding(name: str, value: float) -> None:
    (finding,) = broken(fedspill.vet(changed(network(), name, value)))
    assert (finding.where, finding.severity) == (name, 1.0)
    of = network().state_dict()[name].numel()
    assert finding.evidence == {"share_not_finite": 1 / of, "nan": float(math.isnan(value))}
    assert finding.rule_id == "broken_weights.not_finite"


def test_a_network_of_zeros_is_one_severe_finding_and_a_head_of_zeros_a_note() -> None:
    net = network()
    (note,) = broken(fedspill.vet(changed(net, "6.weight", 0.0, whole=True)))
    assert (note.where, note.severity) == ("6.weight", 0.3)
    for name in ("0.weight", "3.weight"):
        changed(net, name, 0.0, whole=True)
    (finding,) = broken(fedspill.vet(net))
    assert (finding.severity, finding.evidence["layers"]) == (0.9, 3.0)


def test_what_is_said_of_a_head_of_zeros_is_so() -> None:
    """The gradient of all else is 0, and the head's own is the features, one row for a class."""
    net = changed(relu_mlp().own_module(), "5.weight", 0.0, whole=True).requires_grad_()
    x = torch.rand(1, 3, 8, 8)
    nn.functional.cross_entropy(net(x), torch.tensor([2])).backward()
    assert not net[1].weight.grad.any()
    rows = net[5].weight.grad / net[5].bias.grad[:, None]
    torch.testing.assert_close(rows, net[:5](x).detach().expand_as(rows))


def test_the_head_is_found_where_the_network_cannot_be_run() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 16), nn.ReLU(), nn.Linear(16, 10))
    assert broken(fedspill.vet(net)) == []
    (note,) = broken(fedspill.vet(changed(net, "3.weight", 0.0, whole=True)))
    assert note.where == "3.weight"


@pytest.mark.parametrize("name", ["lenet", "convnet", "resnet20", "shufflenet_v2", "cnn"])
def test_honest_networks_raise_nothing(name: str) -> None:
    options = {"width": 8} if name == "convnet" else {}
    model = build(name, input_shape=(3, 32, 32), num_classes=10, options=options)
    assert BrokenWeights().inspect(Incoming(model)) == []


def test_layers_of_zeros_before_the_head_and_norms_raise_nothing() -> None:
    net = changed(mlp().own_module(), "1.weight", 0.0, whole=True)
    assert BrokenWeights().inspect(Incoming(Model.of(net, SPEC))) == []
    norm = changed(network(), "1.weight", 0.0, whole=True)
    assert BrokenWeights().inspect(Incoming(Model.of(norm, SPEC))) == []


def test_a_file_of_zeros_and_one_of_nan_are_alarms(tmp_path: Path) -> None:
    model = build("lenet", input_shape=(3, 32, 32), num_classes=10)
    for name, value in (("zeros", 0.0), ("nan", math.nan)):
        write_tensors(tmp_path / f"{name}.safetensors", {k: torch.full_like(v, value) for k, v in model.params.items()})
    asked = ["vet", "--model", "lenet", "--weights"]
    zeros = CliRunner().invoke(app, [*asked, str(tmp_path / "zeros.safetensors")])
    assert zeros.exit_code == 1
    assert "weight matrices are 0" in " ".join(zeros.output.split())
    nan = CliRunner().invoke(app, [*asked, str(tmp_path / "nan.safetensors")])
    assert nan.exit_code == 1
    assert "of its numbers are NaN or infinite" in " ".join(nan.output.split())
