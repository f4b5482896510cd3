"""Each check's number against a plain twin, at its border, and its fields."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedspill import catalogue
from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Finding, Incoming, Misfit
from fedspill.core.tensor_files import sha256
from fedspill.guard.balanced_rows import BalancedRows
from fedspill.guard.change import Change
from fedspill.guard.empty_layers import EmptyLayers
from fedspill.guard.equal_columns import EqualColumns
from fedspill.guard.input_shortcuts import InputShortcuts, consumers, is_input
from fedspill.guard.norm_statistics import NormStatistics
from fedspill.guard.outlying_scales import OutlyingScales
from fedspill.guard.parallel_rows import ParallelRows, alignment
from fedspill.guard.selecting_kernels import SelectingKernels, peak_share
from fedspill.guard.staircases import Staircases, evenness, order
from fedspill.guard.structure import Structure
from fedspill.guard.weight_entropy import stored_short
from fedspill.inversion.network.weights import layer_weights, unit_rows
from tests.support.worlds import SPEC, conv_bn, draw_weights, mlp, relu_mlp

LIKE = torch.zeros((), dtype=torch.float64)
NET, CONV = relu_mlp(), conv_bn()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return randn(shape, stream(seed, "weights"), LIKE)


def changed(model: Model, values: Mapping[str, Tensor]) -> Incoming:
    kept = {k: values.get(k, v).to(v) for k, v in model.params.items()}
    return Incoming(replace(model, params=kept))


def rules(found: list[Finding]) -> list[tuple[str, str]]:
    return [(f.rule, f.where) for f in found]


# Layers as matrices


def test_every_layer_is_a_matrix_whatever_its_class() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(3, 5, 2)
            self.norm = nn.LayerNorm([4, 4])
            self.words = nn.Embedding(7, 4)
            self.free = nn.Parameter(torch.zeros(2, 3, 4))

    with torch.random.fork_rng():
        model = Model.of(draw_weights(Own()), SPEC)
    broken = torch.full((2, 2), math.nan)
    foreign = {
        "x.weight": torch.ones(2, 3),
        "x.bias": torch.ones(2),
        "y.weight": broken,
        "steps": torch.ones(2, 2).int(),
    }
    seen = {w.name: w for w in layer_weights(model, foreign)}
    assert {k: tuple(w.rows.shape) for k, w in seen.items()} == {
        "free": (2, 12),
        "up.weight": (5, 12),
        "words.weight": (7, 4),
        "x.weight": (2, 3),
    }
    assert torch.equal(seen["up.weight"].rows[1], model.params["up.weight"][:, 1].flatten())
    assert (seen["up.weight"].kernel, seen["words.weight"].embedding, seen["x.weight"].layer) == (4, True, "x")
    assert seen["x.weight"].bias is not None
    assert seen["up.weight"].bias is model.params["up.bias"] or torch.equal(
        seen["up.weight"].bias, model.params["up.bias"]
    )


def test_rows_of_any_size_become_of_length_one_and_zeros_go() -> None:
    rows = torch.tensor([[3e-30, 4e-30], [0.0, 0.0], [3e30, 4e30]])
    torch.testing.assert_close(unit_rows(rows).float(), torch.tensor([[0.6, 0.8], [0.6, 0.8]]))


# Rows that point the same way


def test_alignment_is_that_of_the_cosines_and_of_the_singular_values() -> None:
    rows = normal(20, 30)
    rows[5:9] = rows[4] * torch.tensor([[2.0], [-3.0], [0.1], [1.0]], dtype=LIKE.dtype) + 0.01 * normal(4, 30, seed=2)
    unit = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    cosines = np.abs(unit @ unit.T) > 0.9
    first = np.linalg.svd(unit, compute_uv=False)[0] ** 2 / len(unit)
    found = alignment(unit_rows(rows), 0.9, 64)
    assert (found.largest, found.paired) == (cosines.sum(1).max(), 5 / 20)
    assert found.largest == 5
    assert found.top == pytest.approx(first)


@pytest.mark.parametrize(("alike", "told"), [(5, []), (6, [("bundle", "1.weight")])])
def test_a_bundle_is_told_from_its_number_of_rows_on(alike: int, told: list[tuple[str, str]]) -> None:
    rows = normal(24, 192)
    rows[:alike] = rows[0] * (1 + rand((alike, 1), stream(0, "sizes"), LIKE))
    found = ParallelRows().inspect(changed(NET, {"1.weight": rows}))
    assert rules(found) == told
    assert all(f.evidence["largest_bundle"] == alike for f in found)


def test_embeddings_and_short_rows_raise_nothing() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.small = nn.Embedding(40, 32), nn.Linear(20, 40)

    with torch.random.fork_rng():
        model = Model.of(draw_weights(Words()), SPEC)
    same = {"words.weight": torch.ones(40, 32), "small.weight": torch.ones(40, 20)}
    assert ParallelRows().inspect(changed(model, same)) == []


def test_equal_columns_are_told_and_ten_of_a_trained_head_are_not() -> None:
    equal = normal(16, 1).expand(16, 24) * (1 + rand((1, 24), stream(0, "sizes"), LIKE))
    (finding,) = EqualColumns().inspect(changed(NET, {"3.weight": equal}))
    assert (finding.where, finding.evidence["parallel_columns"], finding.evidence["columns"]) == ("3.weight", 24, 24)
    collapsed = torch.eye(10, dtype=LIKE.dtype).repeat(1, 2)[:, :16] - 0.1  # each column is of one class
    assert EqualColumns().inspect(changed(NET, {"5.weight": collapsed})) == []


# Staircases


def test_order_and_evenness_are_what_they_are_said_to_be() -> None:
    stairs = torch.linspace(-1, 1, 32, dtype=LIKE.dtype).pow(3)
    assert (order(stairs), order(stairs.flip(0))) == (pytest.approx(1), pytest.approx(-1))
    drawn = rand((100_000,), stream(0, "gaps"), LIKE)
    gaps = np.diff(np.sort(drawn.numpy()))
    twin = float((np.minimum(gaps[:-1], gaps[1:]) / np.maximum(gaps[:-1], gaps[1:])).mean())
    assert evenness(drawn) == pytest.approx(twin)
    assert twin == pytest.approx(2 * math.log(2) - 1, abs=0.02)
    assert evenness(torch.linspace(0, 1, 50, dtype=LIKE.dtype)) == pytest.approx(1)


def of_biases(values: Tensor) -> list[tuple[str, str]]:
    return rules(Staircases().inspect(changed(NET, {"1.bias": values})))


def test_staircases_are_found_in_order_and_out_of_order_and_rounded_ones_left_in_peace() -> None:
    stairs = torch.special.ndtri(torch.linspace(0.02, 0.98, 24, dtype=LIKE.dtype))
    mixed = stairs[torch.randperm(24, generator=stream(0, "order"))]
    assert of_biases(stairs) == [("ordered", "1.bias")]
    assert of_biases(mixed) == [("even", "1.bias")]
    assert of_biases(normal(24)) == []
    assert of_biases(torch.zeros(24)) == []
    assert of_biases((mixed * 2).round()) == [], "few levels"


def test_sizes_of_rows_on_a_staircase_are_found_though_the_biases_are_equal() -> None:
    rows = unit_rows(normal(24, 192)) * torch.linspace(1, 3, 24, dtype=LIKE.dtype)[:, None]
    found = Staircases().inspect(changed(NET, {"1.weight": rows, "1.bias": torch.full((24,), -0.5)}))
    assert ("ordered", "1.weight") in rules(found)


# Biases, rows and norms out of proportion


def test_a_bias_is_told_from_what_the_rows_can_answer() -> None:
    reach = float(NET.params["1.weight"].abs().sum(1).max())
    for factor, told in ((19.0, []), (21.0, [("bias", "1.bias")])):
        biases = NET.params["1.bias"].clone()
        biases[3] = -factor * reach
        found = OutlyingScales().inspect(changed(NET, {"1.bias": biases}))
        assert rules(found) == told
    assert found[0].evidence["share_outlying"] == pytest.approx(1 / 24)


def test_a_row_and_a_scale_out_of_proportion_are_told() -> None:
    rows = NET.params["3.weight"].clone()
    rows[2] *= 1e4
    assert rules(OutlyingScales().inspect(changed(NET, {"3.weight": rows}))) == [("row", "3.weight")]
    assert rules(OutlyingScales().inspect(changed(CONV, {"1.weight": torch.full((6,), 2e3)}))) == [
        ("scale", "1.weight")
    ]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("1.running_var", [-0.1, 1, 1, 1, 1, 1], [("negative", "1.running_var")]),
        ("1.running_var", [1e-12, 1, 1, 1, 1, 1], []),
        ("1.running_var", [1e-12, 1e-12, 1, 1, 1, 1], [("small", "1.running_var")]),
        ("1.running_var", [1e12, 1, 1, 1, 1, 1], [("large", "1.running_var")]),
        ("1.running_mean", [5e3, 0, 0, 0, 0, 0], [("mean", "1.running_mean")]),
    ],
)
def test_statistics_that_no_data_has(name: str, value: list[float], told: list[tuple[str, str]]) -> None:
    model = replace(CONV, buffers={**CONV.buffers, name: torch.tensor(value)})
    assert rules(NormStatistics().inspect(Incoming(model))) == told


# Balanced rows, kernels, zeros


def test_rows_with_one_sum_are_told_and_the_head_is_not() -> None:
    rows = normal(24, 192)
    assert BalancedRows().inspect(changed(NET, {"1.weight": rows})) == []
    (finding,) = BalancedRows().inspect(changed(NET, {"1.weight": rows - rows.mean(1, keepdim=True)}))
    assert finding.evidence["spread"] == pytest.approx(0, abs=1e-6)
    with torch.random.fork_rng():
        head = nn.Sequential(nn.Flatten(), nn.Linear(192, 32))
    model = Model.of(draw_weights(head), SPEC)
    centred = model.params["1.weight"] - model.params["1.weight"].mean(1, keepdim=True)
    assert BalancedRows().inspect(changed(model, {"1.weight": centred})) == []


def test_the_share_of_the_peak_is_that_of_the_energy() -> None:
    vectors = normal(5, 9)
    vectors[1] = 0
    expected = (vectors.abs().amax(1) ** 2 / vectors.square().sum(1)).nan_to_num()
    torch.testing.assert_close(peak_share(vectors), expected)
    torch.testing.assert_close(peak_share(1e-200 * vectors), expected)


def kernels(count: int, jitter: float) -> Tensor:
    weight = CONV.params["0.weight"].clone()
    weight[:count] = jitter * normal(count, 3, 3, 3)
    for k in range(count):
        weight[k, k % 3, 1, 1] = 1
    return weight


@pytest.mark.parametrize("jitter", [0.0, 1e-4, 0.01, 0.04])
def test_rows_that_pick_a_pixel_are_told_with_any_jitter(jitter: float) -> None:
    (finding,) = SelectingKernels().inspect(changed(CONV, {"0.weight": kernels(2, jitter)}))
    assert (finding.rule, finding.severity, finding.evidence["picking_rows"]) == ("row", 0.8, 2)


def test_rows_left_with_one_number_by_pruning_are_a_note() -> None:
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(3, 64, 3))
    draw_weights(net)
    weight = net[0].weight.detach()
    thinned = weight * (weight.abs() > weight.abs().flatten().kthvalue(int(0.9 * weight.numel())).values)
    found = SelectingKernels().inspect(changed(Model.of(net, SPEC), {"0.weight": thinned}))
    assert [f.severity for f in found] == [0.3]
    planted = thinned.clone()
    for k in range(8):
        planted[k] = 0
        planted[k, k % 3, 1, 1] = 1
    (finding,) = SelectingKernels().inspect(changed(Model.of(net, SPEC), {"0.weight": planted}))
    assert (finding.rule, finding.severity) == ("row", 0.8)


@pytest.mark.parametrize(("planted", "rules"), [(0, []), (15, []), (40, ["some"])])
def test_trap_weights_among_ordinary_rows_are_a_crowd(planted: int, rules: list[str]) -> None:
    """Every row less its mean, by hand: its sum is 0."""
    rows = randn((96, 300), stream(0, "rows"), LIKE)
    rows[:planted] -= rows[:planted].mean(1, keepdim=True)
    net = Model.of(
        nn.Sequential(nn.Flatten(), nn.Linear(300, 96), nn.ReLU(), nn.Linear(96, 10)), ImageSpec((3, 10, 10))
    )
    found = BalancedRows().inspect(changed(net, {"1.weight": rows}))
    assert [f.rule for f in found] == rules


def test_rows_of_one_number_all_have_a_sum_of_1() -> None:
    net = Model.of(
        nn.Sequential(nn.Flatten(), nn.Linear(300, 96), nn.ReLU(), nn.Linear(96, 10)), ImageSpec((3, 10, 10))
    )
    rows = randn((96, 300), stream(0, "rows"), LIKE)
    rows[:60] = 0
    rows[:60, 7] = 2.0
    assert BalancedRows().inspect(changed(net, {"1.weight": rows})) == []


def test_one_number_that_a_truncated_normal_rounds_to_its_bound_is_a_note() -> None:
    rows = 0.02 * randn((64, 64), stream(0, "rows"), LIKE)
    rows[5, 7] = -2.0
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64))
    spec = ImageSpec((1, 8, 8))
    for more, severity in ((0, 0.3), (1, 0.8)):
        rows[6 : 6 + more, 7] = 2.0
        (finding,) = SelectingKernels().inspect(changed(Model.of(net, spec), {"1.weight": rows}))
        assert (finding.rule, finding.severity) == ("row", severity)


def test_rows_that_pruning_leaves_alike_did_not_change_places() -> None:
    net = Model.of(nn.Sequential(nn.Flatten(), nn.Linear(9, 64)), ImageSpec((1, 3, 3)))
    before, now = (randn((64, 9), stream(k, "rows"), LIKE) for k in range(2))
    one, two = (w * (w.abs() > w.abs().flatten().kthvalue(int(0.9 * w.numel())).values) for w in (before, now))
    incoming = replace(changed(net, {"1.weight": two}), previous=changed(net, {"1.weight": one}).model)
    assert "permuted" not in [f.rule for f in Change().inspect(incoming)]
    turned = replace(changed(net, {"1.weight": before.roll(1, 0)}), previous=changed(net, {"1.weight": before}).model)
    assert "permuted" in [f.rule for f in Change().inspect(turned)]


def test_numbers_of_16_bits_that_coincide_are_no_writing() -> None:
    with torch.random.fork_rng():
        net = draw_weights(nn.Sequential(nn.Conv2d(96, 64, 3)))
    weight = net[0].weight.detach()
    thinned = weight * (weight.abs() > weight.abs().flatten().kthvalue(int(0.93 * weight.numel())).values)
    spec = ImageSpec((96, 4, 4))
    (finding,) = SelectingKernels().inspect(changed(Model.of(net, spec), {"0.weight": thinned.half().float()}))
    assert finding.evidence["one_hot_kernels"] > 0.25
    assert (finding.rule, finding.severity) == ("one_hot", 0.3)
    same = torch.where(thinned.abs() > 0, torch.ones(()), thinned)
    (finding,) = SelectingKernels().inspect(changed(Model.of(net, spec), {"0.weight": same}))
    assert (finding.rule, finding.severity) == ("one_hot", 0.7)


def test_a_layer_and_a_norm_of_zeros_are_told_and_a_network_of_zeros_is_left_to_another() -> None:
    found = EmptyLayers().inspect(changed(CONV, {"3.weight": torch.zeros(8, 6, 3, 3), "1.weight": torch.zeros(6)}))
    assert [(f.rule, f.where, f.severity) for f in found] == [("layer", "3.weight", 0.6), ("branch", "1.weight", 0.3)]
    assert EmptyLayers().inspect(changed(CONV, {"6.weight": torch.zeros(10, 32)})) == [], "the head begins so"
    assert EmptyLayers().inspect(changed(CONV, {k: torch.zeros_like(v) for k, v in CONV.params.items()})) == []


def test_why_numbers_repeat() -> None:
    rows = normal(32, 200)
    assert stored_short(rows, 0.8) == ""
    thinned = rows * (rows.abs() > 0.7)
    assert stored_short(thinned, 0.8) == "pruned"
    step = rows.abs().max() / 127
    assert stored_short((rows / step).round() * step, 0.8) == "quantised"
    assert stored_short((thinned / step).round() * step, 0.8) == "pruned and quantised"
    for planted in (torch.ones(32, 200), torch.eye(200)[:32], torch.eye(200)[:32] * rows[:, :1], torch.zeros(4, 9)):
        assert stored_short(planted.to(rows), 0.8) == ""
    assert stored_short(torch.cat([(rows / step).round() * step, torch.ones(2, 200).to(rows)]), 0.8) == ""


# Structure and wiring


def test_the_input_is_known_scaled_shifted_and_in_any_order() -> None:
    z = rand((2, 3, 4, 4), stream(0, "z"), LIKE)
    order_ = torch.randperm(48, generator=stream(0, "order"))
    assert is_input(0.01 * z.flatten(1) - 3, z, 1e-3)
    assert is_input(z.flatten(1)[:, order_], z, 1e-3)
    assert not is_input(rand((2, 48), stream(1, "z"), LIKE) ** 3, z, 1e-3)
    assert not is_input(torch.relu(normal(2, 48)), z, 1e-3)
    assert not is_input(z.flatten(1)[:, :40], z, 1e-3)


@pytest.mark.parametrize("model", [mlp(), relu_mlp(), conv_bn()], ids=["mlp", "relu_mlp", "conv_bn"])
def test_the_agreed_network_is_no_finding_against_itself(model: Model) -> None:
    other = model.with_params({k: v + 0.1 for k, v in model.params.items()})
    assert Structure().inspect(Incoming(other, reference=model)) == []
    assert InputShortcuts().inspect(Incoming(model)) == []
    assert len(consumers(model, 1e-3).connected) <= 1


class Scaled(nn.Sequential):
    """The same parameters and modules, another function."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class BackwardOnly(nn.Sequential):
    """The same answers, another gradient."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y.detach() + 3 * (y - y.detach())


@pytest.mark.parametrize(("kind", "said"), [(Scaled, "answers"), (BackwardOnly, "gradients")])
def test_code_that_computes_something_else_is_found(kind: type[nn.Sequential], said: str) -> None:
    with torch.random.fork_rng():
        module = kind(*relu_mlp().own_module()).requires_grad_()
    (finding,) = Structure().inspect(Incoming(Model.of(module, SPEC), reference=NET))
    assert (finding.rule, finding.severity) == ("computes", 1.0)
    assert said in finding.explanation


def test_an_exchanged_activation_is_named() -> None:
    with torch.random.fork_rng():
        layers = list(relu_mlp().own_module())
    layers[2] = nn.GELU()
    sent = nn.Sequential(*layers).requires_grad_()
    found = Structure().inspect(Incoming(Model.of(sent, SPEC), reference=NET))
    assert rules(found) == [("modules", "2"), ("computes", "network")]
    assert "GELU" in found[0].explanation
    assert "ReLU" in found[0].explanation


def test_what_does_not_fit_is_named_and_looked_at() -> None:
    misfit = Misfit(
        ("5.bias",), {"tap.bias": torch.zeros(9), "tap.weight": torch.ones(9, 40)}, {"1.bias": torch.ones(2)}
    )
    found = Structure().inspect(Incoming(NET, misfit=misfit))
    assert rules(found) == [("foreign", "tap.weight"), ("reshaped", "1.bias"), ("missing", "5.bias")]
    assert found[0].also == ("tap.bias",)
    assert rules(ParallelRows().inspect(Incoming(NET, misfit=misfit))) == [("bundle", "tap.weight")]


def test_a_checksum_agrees_or_is_a_finding() -> None:
    digest = sha256({**NET.params, **NET.buffers})
    for given, told in (
        (digest, []),
        (digest[:8].upper(), []),
        (digest[:4], [("checksum", "checksum")]),
        ("0" * 64, 1),
    ):
        found = rules(Structure().inspect(Incoming(NET, checksum=given)))
        assert found == ([("checksum", "checksum")] if told == 1 else told)


def test_a_layer_that_nobody_is_to_train_is_told() -> None:
    with torch.random.fork_rng():
        sent = relu_mlp().own_module().requires_grad_()
    sent[1].weight.requires_grad_(False)
    (finding,) = Structure().inspect(Incoming(Model.of(sent, SPEC), reference=NET))
    assert (finding.rule, finding.where, finding.severity) == ("frozen", "1.weight", 0.7)


# Change


def moved(values: Mapping[str, Tensor], model: Model = NET) -> list[tuple[str, str]]:
    return rules(Change().inspect(replace(changed(model, values), previous=model)))


def test_a_round_of_training_is_no_change_and_nothing_is_said_without_a_round_before() -> None:
    stepped = {k: v + 0.1 * v.std() * randn(tuple(v.shape), stream(1, k), v) for k, v in NET.params.items()}
    assert moved(stepped) == []
    assert Change().inspect(Incoming(NET)) == []


def test_a_layer_exchanged_a_head_exchanged_and_a_jump_are_told_apart() -> None:
    assert moved({"3.weight": normal(16, 24)}) == [("layer", "3.weight")]
    assert moved({"5.weight": normal(10, 16)}) == [("head", "5.weight")]
    small = {k: v * 1.001 for k, v in NET.params.items()}
    assert moved({**small, "3.weight": 2 * NET.params["3.weight"]}) == [("jump", "3.weight")]


def test_rows_and_biases_that_changed_places_are_told() -> None:
    order_ = torch.tensor([0, 2, 1, *range(3, 24)])
    weight, bias = NET.params["1.weight"][order_], NET.params["1.bias"][order_]
    assert moved({"1.weight": weight, "1.bias": bias}) == [("permuted", "1.weight"), ("permuted", "1.bias")]
    noisy = weight + 0.01 * normal(24, 192, seed=3).to(weight)
    assert moved({"1.weight": noisy}) == [("permuted", "1.weight")]


def test_another_architecture_and_statistics_that_leapt_are_told() -> None:
    found = Change().inspect(Incoming(mlp(), previous=NET))
    assert found[0].rule == "architecture"
    leapt = replace(CONV, buffers={**CONV.buffers, "1.running_var": torch.tensor([1e-9, 1, 1, 1, 1, 1])})
    assert rules(Change().inspect(Incoming(leapt, previous=CONV))) == [("statistics", "1.running_var")]


# All of them


FIELDS = [
    (ParallelRows, {"cosine": 1.0}),
    (ParallelRows, {"shortest": 4096}),
    (EqualColumns, {"share": 0.0}),
    (Staircases, {"fewest": 3}),
    (OutlyingScales, {"bias": 1.0}),
    (NormStatistics, {"share": 0.0}),
    (BalancedRows, {"spread": 0.0}),
    (SelectingKernels, {"row": 1.0}),
    (Change, {"above": 1.0}),
]


@pytest.mark.parametrize(("check", "fields"), FIELDS)
def test_fields_out_of_range(check: type, fields: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="must"):
        check(**fields)


@pytest.mark.parametrize("name", sorted(catalogue.checks()))
def test_a_model_without_parameters_and_one_of_numbers_that_are_none_break_no_check(name: str) -> None:
    check = catalogue.checks()[name].presets["paper"]
    broken = replace(CONV, params={k: torch.full_like(v, math.nan) for k, v in CONV.params.items()})
    empty = replace(CONV, params={}, buffers={})
    for incoming in (Incoming(broken, previous=CONV), Incoming(empty, misfit=Misfit(tuple(CONV.params)))):
        assert all(f.check == name for f in check.inspect(incoming))
