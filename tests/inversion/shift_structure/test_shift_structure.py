"""The maps of several examples from one gradient, against the maps."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedspill.core.rng import randn, stream
from fedspill.inversion.shift_structure import unmixing
from fedspill.inversion.shift_structure.krylov import largest
from fedspill.inversion.shift_structure.maps import maps_by_rank
from fedspill.inversion.shift_structure.unmixing import FOUND, unmixed

LIKE = torch.zeros((), dtype=torch.float64)


def numbers(*shape: int, name: str = "x") -> Tensor:
    return randn(shape, stream(0, "test", name), LIKE)


def planted(layer: nn.Conv2d, x: Tensor) -> Tensor:
    return torch.autograd.grad(layer(x), layer.weight, numbers(*layer(x).shape, name="cotangent"))[0]


def outside(maps: Tensor, span: Tensor) -> float:
    """Share of the maps that no mixture of the span gives."""
    basis, target = span.flatten(1).T, maps.flatten(1).T
    return float((basis @ torch.linalg.lstsq(basis, target).solution - target).norm() / target.norm())


@pytest.mark.parametrize("examples", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "padding"), [(3, 1), (3, 0), (5, 2)])
def test_planted_maps_are_in_the_span_that_their_gradient_tells(kernel: int, padding: int, examples: int) -> None:
    layer = nn.Conv2d(12, 80, kernel, padding=padding, bias=False).double()
    x = numbers(examples, 12, 4, 4).clamp_min(0)
    span = maps_by_rank(planted(layer, x), layer, x.shape)
    assert span is not None
    assert span.shape == x.shape
    assert outside(x, span) < 1e-8


@pytest.mark.parametrize("assumed", [1, 2, 4])
def test_no_span_is_told_of_another_number_of_examples(assumed: int) -> None:
    layer = nn.Conv2d(12, 80, 3, padding=1, bias=False).double()
    assert maps_by_rank(planted(layer, numbers(3, 12, 4, 4)), layer, torch.Size((assumed, 12, 4, 4))) is None


@pytest.mark.parametrize(("channels", "stride"), [(31, 1), (80, 2)])
def test_too_few_channels_and_patches_that_hardly_overlap_tell_nothing(channels: int, stride: int) -> None:
    layer = nn.Conv2d(12, channels, 3, stride, padding=1, bias=False).double()
    x = numbers(2, 12, 4, 4)
    assert maps_by_rank(planted(layer, x), layer, x.shape) is None


def test_eigenvalues_that_come_several_times_are_all_found() -> None:
    basis, _ = torch.linalg.qr(numbers(60, 60))
    values = torch.cat([torch.ones(4, dtype=LIKE.dtype), torch.linspace(0.9, 0, 56, dtype=LIKE.dtype)])
    matrix = basis * values @ basis.T
    found, vectors = largest(lambda v: v @ matrix, 60, 5, LIKE)
    torch.testing.assert_close(found, values[:5])
    torch.testing.assert_close(vectors[:4].T @ vectors[:4], basis[:, :4] @ basis[:, :4].T)


def above(maps: Tensor) -> Tensor:
    weight = numbers(30, 12, 3, 3, name="above") / 10
    return torch.relu(nn.functional.conv2d(maps, weight, padding=1)).mean((2, 3))


@pytest.mark.parametrize("non_negative", [True, False])
def test_maps_are_unmixed_by_what_the_layers_above_make_of_them(non_negative: bool) -> None:
    x = numbers(3, 12, 4, 4).clamp_min(0 if non_negative else -9)
    span = (numbers(3, 3, name="mixing") @ x.flatten(1)).reshape(x.shape)
    found = unmixed(above, span, above(x), non_negative=non_negative)
    assert float(found.misfit.max()) < 1e-8
    torch.testing.assert_close(found.maps, x, rtol=1e-7, atol=1e-8)


def test_features_of_other_maps_are_not_fitted() -> None:
    x, y = numbers(3, 12, 4, 4).clamp_min(0), numbers(3, 12, 4, 4, name="other").clamp_min(0)
    assert float(unmixed(above, x, above(y), non_negative=True).misfit.min()) > 100 * FOUND


def test_a_map_to_which_two_starts_lead_is_not_sought_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, tried = numbers(3, 12, 4, 4).clamp_min(0), list[int]()

    def counted(*args: Any) -> tuple[Tensor, Tensor]:
        tried.append(1)
        return descended(*args)

    descended = unmixing._descended
    monkeypatch.setattr(unmixing, "_descended", counted)
    off = 1 + 3e-3 * numbers(3, 30, name="off")
    found = unmixed(above, x, off * above(x), non_negative=True)
    assert FOUND < float(found.misfit.min()) < float(found.misfit.max()) < 1e-2
    torch.testing.assert_close(found.maps, x, rtol=0, atol=0.1)
    assert len(tried) <= 3 * 3
