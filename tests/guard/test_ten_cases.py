"""What passed every check before, or ended as an error: each a finding of the check that is there for it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import fedspill
from fedspill import catalogue
from fedspill.core.model import Model
from fedspill.core.rng import rand, randn, stream
from fedspill.core.roles import Finding, Incoming
from fedspill.tamperings.robbing_linear_layer import RobbingLinearLayer
from tests.support.worlds import SPEC, conv_bn, draw_weights, mlp, relu_mlp

LIKE = torch.zeros(())
NET = relu_mlp()


def noise(like: Tensor, seed: int = 1) -> Tensor:
    return randn(tuple(like.shape), stream(seed, "noise"), like)


def sent(name: str, model: Model = NET) -> Model:
    return catalogue.tamperings()[name].presets["paper"].tamper(model, None, 0, stream(0, "server")).model


def changed(model: Model, values: Mapping[str, Tensor]) -> Model:
    """Without the check for finite numbers that `with_params` makes."""
    return replace(model, params={**model.params, **values})


def imprint(hidden: Callable[[Tensor], Tensor]) -> Model:
    model = RobbingLinearLayer(cutoffs="laplace").tamper(NET, None, 0, stream(0, "server")).model
    return changed(model, {"1.weight": hidden(model.params["1.weight"])})


def of_size(rows: Tensor, share: float) -> Tensor:
    """Noise that is this share of each row."""
    return share * rows.norm(dim=1, keepdim=True) * noise(rows) / rows.shape[1] ** 0.5


def with_ordinary_rows(rows: Tensor) -> Tensor:
    mixed = rows.clone()
    mixed[::2] = 0.1 * noise(mixed[::2])
    return mixed


def biases(value: float) -> Model:
    signs = torch.where(torch.arange(24) % 2 == 0, value, -value)
    return changed(NET, {"1.bias": signs})


def dead_statistics() -> Model:
    model = conv_bn()
    return replace(model, buffers={**model.buffers, "1.running_var": torch.full((6,), 1e-12)})


def found(model: Model, *, previous: Model | None = None, reference: Model | None = None) -> dict[str, list[str]]:
    """Rule to the places where it was found, alarms only."""
    rules = dict[str, list[str]]()
    for finding in fedspill.vet(model, previous=previous, reference=reference):
        if finding.severity >= 0.5:
            rules.setdefault(finding.rule_id, []).append(finding.where)
    return rules


CASES = [
    ("linear_first", lambda: sent("linear_first"), "input_shortcuts.beside", "planted"),
    ("linear_first, convolutions", lambda: sent("linear_first", conv_bn()), "input_shortcuts.front", "planted"),
    ("input_to_head", lambda: sent("input_to_head"), "input_shortcuts.beside", "tap"),
    ("input_to_head, convolutions", lambda: sent("input_to_head", conv_bn()), "input_shortcuts.front", "tap"),
    ("trap_weights", lambda: sent("trap_weights"), "balanced_rows", "1.weight"),
    ("noise of 1 %", lambda: imprint(lambda w: w + of_size(w, 0.01)), "parallel_rows.bundle", "1.weight"),
    ("rows nearly alike", lambda: imprint(lambda w: w + of_size(w, 0.3)), "parallel_rows.bundle", "1.weight"),
    ("rows hardly alike", lambda: imprint(lambda w: w + of_size(w, 0.7)), "parallel_rows.rank", "1.weight"),
    (
        "scaled rows",
        lambda: imprint(lambda w: w * (0.1 + rand((24, 1), stream(0, "scale"), w))),
        "parallel_rows.bundle",
        "1.weight",
    ),
    ("ordinary rows mixed in", lambda: imprint(with_ordinary_rows), "parallel_rows.bundle", "1.weight"),
    ("biases of 1e6", lambda: biases(1e6), "outlying_scales.bias", "1.bias"),
    ("a layer of zeros", lambda: changed(NET, {"3.weight": torch.zeros(16, 24)}), "empty_layers.layer", "3.weight"),
    ("variances of 1e-12", dead_statistics, "norm_statistics.small", "1.running_var"),
    (
        "NaN",
        lambda: changed(NET, {"3.bias": torch.full((16,), float("nan"))}),
        "broken_weights.not_finite",
        "3.bias",
    ),
]


@pytest.mark.parametrize(("make", "rule", "where"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_each_is_a_finding_of_the_right_check(make: Callable[[], Model], rule: str, where: str) -> None:
    assert where in found(make()).get(rule, [])


@pytest.mark.parametrize("preset", ["paper", "strong"])
@pytest.mark.parametrize("model", [relu_mlp(), conv_bn()], ids=["mlp", "conv_bn"])
def test_flipped_labels_are_found_beside_the_round_before(preset: str, model: Model) -> None:
    tampering = catalogue.tamperings()["label_flip"].presets[preset]
    flipped = tampering.tamper(model, None, 0, stream(0, "server")).model
    head = list(model.params)[-2]
    assert found(flipped) == {}, "without the round before there is nothing to see"
    assert found(flipped, previous=model) == {"change.permuted": [head, head.replace("weight", "bias")]}


def test_another_architecture_is_a_finding_that_names_what_is_foreign() -> None:
    rules = found(sent("linear_first"), reference=NET)
    assert set(rules["structure.parameters"]) == {"planted.weight"}
    assert "structure.modules" in rules
    assert "structure.parameters" in found(mlp(), reference=NET)


def test_each_says_what_could_be_read_from_whom_and_what_to_do() -> None:
    for _, make, rule, _ in CASES:
        finding = next(f for f in fedspill.vet(make()) if f.rule_id == rule)
        assert all(text.endswith(".") for text in (finding.explanation, finding.reads, finding.advice))
        assert finding.text == f"{finding.explanation} {finding.reads} {finding.advice}"


def test_a_check_that_cannot_look_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedspill.guard.parallel_rows import ParallelRows

    def broken(self: ParallelRows, incoming: Incoming) -> list[Finding]:
        raise ZeroDivisionError("no rows")

    monkeypatch.setattr(ParallelRows, "inspect", broken)
    (finding,) = fedspill.vet(NET)
    assert (finding.rule_id, finding.where, finding.severity) == ("not_examined.failed", "parallel_rows", 1.0)
    assert "ZeroDivisionError: no rows" in finding.explanation


def test_a_network_that_cannot_be_run_is_a_note() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("never")

    with torch.random.fork_rng():
        net = draw_weights(Picky())
    (finding,) = fedspill.vet(net)
    assert (finding.rule_id, finding.severity) == ("input_shortcuts.not_run", 0.4)
    assert "never" in finding.explanation
    assert SPEC.shape == (3, 8, 8)
