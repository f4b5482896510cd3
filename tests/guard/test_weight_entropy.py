"""The entropy of weight vectors: the number, what it finds, and what it leaves in peace."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from fedspill.cli.main import app
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn, stream
from fedspill.core.roles import Finding, Incoming
from fedspill.core.tensor_files import write_tensors
from fedspill.guard import weight_entropy
from fedspill.guard.parallel_rows import ParallelRows
from fedspill.guard.weight_entropy import WeightEntropy, entropy, weight_vectors
from fedspill.inversion.identity.transparent import linearised
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from fedspill.zoo.models import build
from tests.support.worlds import SPEC, conv_bn, draw_weights, mlp, relu_mlp

LIKE = torch.zeros(())


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return randn(shape, stream(seed, "weights"), LIKE)


def by_histogram(vector: torch.Tensor, share: float) -> float:
    """One vector, bin by bin, in NumPy."""
    x = vector.double().numpy()
    counts = np.unique(np.floor(x / (share * np.abs(x).max())), return_counts=True)[1]
    p = counts / len(x)
    return float(-(p * np.log(p)).sum() / np.log(len(x)))


@pytest.mark.parametrize("share", [1e-6, 1e-2, 0.3])
@pytest.mark.parametrize("n", [9, 27, 500])
def test_entropy_is_that_of_the_histogram(n: int, share: float) -> None:
    vectors = normal(20, n)
    vectors[3:6] = (4 * vectors[3:6]).round() / 4
    expected = [by_histogram(v, share) for v in vectors]
    torch.testing.assert_close(entropy(vectors, share), torch.tensor(expected, dtype=torch.float64))


def test_a_large_matrix_is_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = normal(50, 9).round()
    whole = entropy(vectors)
    monkeypatch.setattr(weight_entropy, "AT_ONCE", 20)
    assert torch.equal(entropy(vectors), whole)


def test_ends_of_the_scale() -> None:
    same, distinct, one_hot = torch.full((1, 9), -0.3), torch.arange(9.0)[None], torch.eye(9)[:1]
    assert entropy(same).item() == pytest.approx(0, abs=1e-12)
    assert entropy(torch.zeros(1, 9)).item() == pytest.approx(0, abs=1e-12)
    assert entropy(distinct).item() == pytest.approx(1)
    assert entropy(one_hot).item() == pytest.approx(0.159, abs=5e-4)
    assert entropy(1e-30 * distinct).item() == pytest.approx(1), "the scale does not matter"


def inspect(model: Model) -> dict[str, Finding]:
    found = WeightEntropy().inspect(Incoming(model))
    assert all(f.severity >= 0.5 for f in found)
    return {f.where: f for f in found}


HONEST = ["cnn", "lenet", "mlp", "resnet20", "convnet"]


@pytest.mark.parametrize("name", HONEST)
def test_honest_networks_raise_nothing(name: str) -> None:
    options = {"width": 16} if name == "convnet" else {}
    weights = "trained" if name in ("lenet", "convnet") else "untrained"
    model = build(name, input_shape=(3, 32, 32), num_classes=10, weights=weights, options=options)
    assert inspect(model) == {}
    for kind in (torch.float16, torch.bfloat16):
        stored = model.with_params({k: v.to(kind).float() for k, v in model.params.items()})
        assert inspect(stored) == {}, f"nor when stored as {kind}"


def test_norms_biases_and_layers_of_zeros_raise_nothing() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.LayerNorm([16, 6, 6]), nn.Flatten(), nn.Linear(576, 10)
        )
    draw_weights(net)
    with torch.no_grad():
        for part in (net[1], net[2]):
            part.reset_parameters()  # all scales 1, all shifts 0
        net[0].bias.zero_()
        net[4].weight.zero_()
    assert inspect(Model.of(net, SPEC)) == {}


def test_padding_of_an_embedding_is_no_finding_and_another_empty_row_is() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(40, 16, padding_idx=0)

    with torch.random.fork_rng():
        net = draw_weights(Words())
    with torch.no_grad():
        net.words.weight[0] = 0
    model = Model.of(net, SPEC)
    assert inspect(model) == {}
    weight = model.params["words.weight"].clone()
    weight[7] = 0
    assert inspect(replace(model, params={"words.weight": weight}))["words.weight"].evidence["low_row_share"] == 1 / 39


def changed(model: Model, name: str, value: torch.Tensor) -> Finding:
    found = inspect(model.with_params({**model.params, name: value}))
    assert list(found) == [name]
    return found[name]


def test_identity_kernels_are_found_among_trained_ones() -> None:
    model = build("cnn", input_shape=(3, 32, 32), num_classes=10)
    name = "extractor.3.weight"
    weight = model.params[name].clone()
    weight[5, 2] = 0
    weight[5, 2, 1, 1] = 1
    finding = changed(model, name, weight)
    assert finding.evidence["lowest_kernel"] == pytest.approx(0.159, abs=5e-4)
    assert finding.evidence["low_kernel_share"] == 1 / (64 * 32)
    assert finding.evidence["low_row_share"] == 0
    assert finding.severity == pytest.approx(1 - 0.5 * finding.evidence["lowest_entropy"] / 0.8)
    assert "1 of 2048 kernels" in finding.explanation


def test_equal_rows_are_found_though_each_alone_is_not() -> None:
    model = mlp()
    row = normal(192)
    finding = changed(model, "1.weight", row.expand(32, 192).clone())
    assert finding.evidence["low_row_share"] == 0
    assert finding.evidence["lowest_layer"] == pytest.approx(math.log(192) / math.log(32 * 192), abs=1e-3)
    assert "the layer as a whole" in finding.explanation


def test_equal_rows_are_found_in_a_layer_too_large_to_be_looked_at_whole() -> None:
    net = nn.Sequential(nn.Linear(3000, 1000, device="meta"))
    net[0].weight = nn.Parameter(normal(1, 3000).expand(1000, 3000).clone())
    net[0].bias = nn.Parameter(torch.zeros(1000))
    assert "0.weight" in inspect(Model.of(net, SPEC))
    net[0].weight = nn.Parameter(normal(1000, 3000))
    assert inspect(Model.of(net, SPEC)) == {}


def test_imprints_and_transparent_convolutions_are_found() -> None:
    model = relu_mlp()
    sent = RobbingLinearLayer(cutoffs="laplace").tamper(model, None, 0, stream(0, "server")).model
    assert set(inspect(sent)) == {"1.weight", "3.weight"}, "bins, and the equal columns behind them"
    clear = linearised(build("cnn", input_shape=(3, 32, 32), num_classes=10), "head", lanes="three", relu="shift")
    found = inspect(clear)
    assert {k for k in clear.params if k.startswith("extractor.") and clear.params[k].ndim == 4} == set(found)


def test_what_entropy_cannot_see() -> None:
    model = mlp()
    jittered = normal(192).expand(32, 192) + 1e-3 * normal(32, 192, seed=1)
    assert inspect(model.with_params({**model.params, "1.weight": jittered})) == {}


def test_units_are_rows_kernels_and_the_layer() -> None:
    shapes = {name: {v.unit: tuple(v.values.shape) for v in cut} for name, cut in weight_vectors(conv_bn(), smallest=9)}
    assert shapes["0.weight"] == {"row": (6, 27), "kernel": (18, 9), "layer": (1, 162)}
    assert shapes["6.weight"] == {"row": (10, 32), "layer": (1, 320)}
    assert set(shapes) == {"0.weight", "3.weight", "6.weight"}


@pytest.mark.parametrize("fields", [{"threshold": 1.5}, {"bin_width": 0.0}, {"smallest": 1}, {"most": 4}])
def test_fields_out_of_range(fields: dict) -> None:
    with pytest.raises(BadInput, match="must lie between"):
        WeightEntropy(**fields)


def test_vet_tells_an_honest_model_from_a_handcrafted_one(tmp_path) -> None:
    model = build("cnn", input_shape=(3, 32, 32), num_classes=10)
    sent = linearised(model, "head", lanes="three", relu="shift")
    for name, made, code in (("honest", model, 0), ("crafted", sent, 1)):
        path = tmp_path / f"{name}.safetensors"
        write_tensors(path, {**made.params, **made.buffers})
        done = CliRunner().invoke(app, ["vet", "--model", "cnn", "--weights", str(path)])
        assert done.exit_code == code, done.output
        assert ("extractor.0.weight" in done.output) == bool(code)
    assert done.output.count("[weight_entropy]") == 6
    missing = CliRunner().invoke(app, ["vet", "--model", "cnn", "--weights", str(tmp_path / "none")])
    assert isinstance(missing.exception, BadInput)
    assert "fedspill vet --model" in CliRunner().invoke(app, ["vet", "--help"]).output


def pruned(rows: int, length: int) -> torch.Tensor:
    """Nine in ten numbers left out by size."""
    values = randn((rows, length), stream(0, "pruned"), torch.zeros(()))
    return values * (values.abs() > values.abs().flatten().kthvalue(int(0.9 * values.numel())).values)


@pytest.mark.parametrize("length", [9, 32])
def test_what_pruning_leaves_of_short_rows_is_a_note(length: int) -> None:
    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(length, 40)), ImageSpec((1, 1, length)))
    (finding,) = WeightEntropy().inspect(
        Incoming(replace(model, params={**model.params, "1.weight": pruned(40, length)}))
    )
    assert (finding.rule, finding.severity) == ("stored_short", weight_entropy.NOTE)


def test_rows_of_one_number_are_no_pruning() -> None:
    """A server that hands numbers on writes one into every row, or the same again and again."""
    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(9, 40)), ImageSpec((1, 1, 9)))
    one_hot = torch.eye(9).repeat(5, 1)[:40]
    two = one_hot + torch.eye(9).roll(1, 0).repeat(5, 1)[:40] * (torch.arange(40) % 3 == 0)[:, None]
    for rows in (one_hot * (1 + 0.01 * randn((40, 1), stream(1, "jitter"), one_hot)), two):
        (finding,) = WeightEntropy().inspect(Incoming(replace(model, params={**model.params, "1.weight": rows})))
        assert finding.severity >= 0.5


def test_what_pruning_leaves_of_rows_is_not_parallel() -> None:
    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(25, 288)), ImageSpec((1, 1, 25)))
    sent = replace(model, params={**model.params, "1.weight": pruned(288, 25)})
    assert ParallelRows().inspect(Incoming(sent)) == []
    alike = pruned(288, 25)
    alike[::8, :5] = torch.arange(1.0, 6.0)
    found = ParallelRows().inspect(Incoming(replace(model, params={**model.params, "1.weight": alike})))
    assert [f.rule for f in found] == ["bundle"]


def test_the_step_of_a_large_layer_is_that_of_its_largest_number() -> None:
    """Of the rows that are looked at for why numbers repeat, none need hold it."""
    rows = randn((2 * weight_entropy.MOST_ROWS, 40), stream(0, "int8"), torch.zeros(()))
    rows[1, 0] = 1.5 * rows.abs().max()  # every second row is looked at
    step = rows.abs().max() / 127
    model = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(40, len(rows))), ImageSpec((1, 1, 40)))
    sent = replace(model, params={**model.params, "1.weight": (rows / step).round() * step})
    (finding,) = WeightEntropy().inspect(Incoming(sent))
    assert finding.rule == "stored_short"


def test_a_small_row_beside_a_large_one_is_of_few_levels_and_a_constant_one_is_written() -> None:
    rows = randn((16, 100), stream(0, "int8"), torch.zeros(()))
    step = rows.abs().max() / 127
    small = torch.where(torch.arange(100) < 70, step, 2 * step)
    for row, why in ((small, "quantised"), (torch.full((100,), float(step)), "")):
        whole = torch.cat([(rows[:-1] / step).round() * step, row[None]])
        assert weight_entropy.stored_short(whole, 0.9) == why
