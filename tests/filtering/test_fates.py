"""What became of a tensor is told right, each kind against the smallest chain that does it."""

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Batch, Params
from fedspill.filtering.chains.loading import chain_of
from fedspill.filtering.known import usual_batch, usual_model
from fedspill.filtering.verdict import filtered
from fedspill.report.filtering import Filtering

LARGE = "1.weight"


@cache
def world() -> tuple[Model, Batch]:
    model = usual_model()
    return model, usual_batch(model, 1)


def done(chain: Callable[[Params], object]) -> Filtering:
    return filtered(chain_of(chain, "chain"), "chain", *world(), pushes=4, seconds=0.0)


def became(chain: Callable[[Tensor], Tensor], name: str = LARGE) -> str:
    report = done(lambda update: {k: chain(v) if v.is_floating_point() else v for k, v in update.items()})
    return ", ".join(next(f for f in report.fates if f.name == name).became)


def top_tenth(value: Tensor) -> Tensor:
    least = value.abs().flatten().sort().values[value.numel() * 9 // 10]
    return torch.where(value.abs() >= least, value, 0.0)


def eight_bits(value: Tensor) -> Tensor:
    step = value.abs().max() / 127
    return (value / step).round() * step


@pytest.mark.parametrize(
    ("chain", "told"),
    [
        (lambda v: v, "passed unchanged"),
        (lambda v: v * 0.25, "clipped x 0.25"),
        (lambda v: v * -2.0, "scaled x -2"),
        (torch.zeros_like, "set to 0"),
        (torch.sign, "quantised to 2 values"),
        (lambda v: v.clamp(-1e-3, 1e-3), "values cut off at 0.001"),
        (lambda v: v.half(), "as float16"),
        (lambda v: v.flatten()[:1], "reshaped from (32, 192) to (1,)"),
        (lambda v: v.square(), "altered"),
    ],
)
def test_a_tensor_has_one_fate(chain: Callable[[Tensor], Tensor], told: str) -> None:
    assert told in became(chain)


def test_what_is_pruned_and_quantised_is_told_with_its_share() -> None:
    change = done(lambda update: update)
    assert change.cosine == pytest.approx(1.0)
    assert became(top_tenth).startswith("pruned (")
    assert "quantised to" in became(eight_bits)


def test_what_is_dropped_or_made_is_told_by_name() -> None:
    report = done(lambda update: {"4.bias": update["4.bias"], "mine": torch.ones(3)})
    fates = {f.name: f.became for f in report.fates}
    assert fates["4.bias"] == ("passed unchanged",)
    assert fates["mine"] == ("made by the chain",)
    assert all(fates[n] == ("dropped",) for n in fates if n not in ("4.bias", "mine"))


def test_what_is_withheld_leaves_nothing_to_attack() -> None:
    report = done(lambda update: None)
    assert {f.became for f in report.fates} == {("withheld",)}
    assert report.cosine is None
    assert report.exit_code == 0
    assert report.privacy.text == "no differential privacy: nothing was sent to judge"


@pytest.mark.parametrize(
    ("chain", "nan"),
    [
        (lambda update: update, "passed on"),
        (
            lambda update: {k: torch.nan_to_num(v) if v.is_floating_point() else v for k, v in update.items()},
            "made finite",
        ),
        (
            lambda update: {k: v - v.double().mean() if v.is_floating_point() else v for k, v in update.items()},
            "spread",
        ),
    ],
)
def test_what_becomes_of_nan_is_told(chain: Callable[[Params], object], nan: str) -> None:
    report = done(chain)
    assert report.odd["one NaN"].startswith(nan)
    accepted = [f for f in report.findings if f.rule == "odd.accepted"]
    assert bool(accepted) is (nan != "made finite")


def refuse(update: Params) -> Params:
    if not all(bool(v.double().isfinite().all()) for v in update.values()):
        raise ValueError("not finite")
    return update


def test_a_chain_that_refuses_nan_has_no_finding_of_it() -> None:
    report = done(refuse)
    assert report.odd["one NaN"] == "refused (ValueError: not finite)"
    assert not [f for f in report.findings if f.rule.startswith("odd")]


def clipped_by_python(update: Params) -> Params:
    """As many a client clips: `min(1, C / nan)` is 1."""
    norm = float(torch.cat([v.double().flatten() for v in update.values()]).norm()) + 1e-12
    return {k: v * min(1.0, 1.0 / norm) for k, v in update.items() if v.is_floating_point()}


def test_a_clipping_that_nan_switches_off_is_an_alarm() -> None:
    assert [f.rule for f in done(clipped_by_python).alarms] == ["clip.unclipped_by_odd"]


def whole_numbers_refused(update: Params) -> Params:
    for value in update.values():
        value.mul_(0.5)
    return update


def test_a_chain_that_ends_with_an_error_for_whole_numbers_is_tested_without() -> None:
    report = done(whole_numbers_refused)
    assert "refuses whole numbers (2.num_batches_tracked)" in report.notes[0]
    assert {f.became for f in report.fates} == {("clipped x 0.5",)}
