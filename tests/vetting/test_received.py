"""A file beside its network: what fits is taken as it is, what does not is kept and named."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fedspill.core.roles import FITS
from fedspill.vetting.received import received
from tests.support.worlds import conv_bn

MODEL = conv_bn()
WHOLE = {**MODEL.params, **MODEL.buffers}


def without(*names: str) -> dict[str, Tensor]:
    return {k: v for k, v in WHOLE.items() if k not in names}


def test_a_file_that_fits_is_the_model() -> None:
    blank = MODEL.with_params({k: torch.zeros_like(v) for k, v in MODEL.params.items()})
    got = received(blank, {f"module.{k}": v for k, v in WHOLE.items()}, "file")
    assert got.misfit == FITS
    assert not got.misfit
    assert all(torch.equal(v, MODEL.params[k]) for k, v in got.model.params.items())


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (without("0.bias"), {"missing": ("0.bias",)}),
        (without("1.running_var"), {"missing": ("1.running_var",)}),
        ({**WHOLE, "tap.weight": torch.ones(3, 4)}, {"foreign": ("tap.weight",)}),
        ({**WHOLE, "0.bias": torch.ones(7)}, {"reshaped": ("0.bias",), "missing": ("0.bias",)}),
        ({**WHOLE, "0.bias": torch.ones(6).int()}, {"unreadable": ("0.bias",), "missing": ("0.bias",)}),
        ({**WHOLE, "0.bias": torch.ones(6) * 1j}, {"unreadable": ("0.bias",), "missing": ("0.bias",)}),
        ({"arr_0": torch.ones(5)}, {"foreign": ("arr_0",), "missing": tuple(k for k in WHOLE if "num_" not in k)}),
    ],
)
def test_what_does_not_fit_is_named(tensors: Mapping[str, Tensor], said: Mapping[str, tuple[str, ...]]) -> None:
    got = received(MODEL, tensors, "file")
    for kind in ("missing", "foreign", "reshaped", "unreadable"):
        assert tuple(getattr(got.misfit, kind)) == said.get(kind, ()), kind
    assert set(got.model.params) == set(MODEL.params) - set(got.misfit.missing)


def test_the_network_s_own_weights_are_not_taken_for_the_file_s() -> None:
    got = received(MODEL, without("0.weight", "num_batches_tracked"), "file")
    assert "0.weight" not in got.model.params


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_taken(value: float) -> None:
    got = received(
        MODEL, {**WHOLE, "0.bias": torch.full((6,), value), "1.running_var": torch.full((6,), value)}, "file"
    )
    assert not got.misfit
    assert not got.model.params["0.bias"].isfinite().any()
    assert not got.model.buffers["1.running_var"].isfinite().any()
    assert torch.equal(got.model.params["0.weight"], MODEL.params["0.weight"])


def test_what_is_refused_for_another_reason_is_unreadable_rather_than_silent() -> None:
    twice = {**{f"a.{k}": v for k, v in WHOLE.items()}, **{f"b.{k}": v + 1 for k, v in WHOLE.items()}}
    got = received(replace(MODEL), twice, "file")
    assert got.misfit
