"""The step by the normal equations, and by conjugate gradients, against the Jacobian that autograd takes."""

import pytest
import torch
from torch import Tensor

from fedspill.core.rng import randn, stream
from fedspill.inversion.disaggregation import matrix_free
from fedspill.inversion.disaggregation.dense import dense_step, normal_equations
from fedspill.inversion.disaggregation.errors import LogitErrors
from fedspill.inversion.disaggregation.labels import likely_multisets, speakers
from fedspill.inversion.disaggregation.point import Rules, point
from fedspill.inversion.disaggregation.silent import disturbed, precision_of, speaking
from fedspill.inversion.disaggregation.system import System, system
from tests.support.heads import LIKE, seen


def known(bias: bool = True) -> System:
    of = seen([1, 4, 4], bias=bias)
    basis = torch.linalg.svd(of.rows, full_matrices=False)[2][:3]
    errors = LogitErrors.plain(10, LIKE)
    return system(basis, of.rows @ basis.T, of.weight, of.bias, of.labels, errors.shares(of.labels), errors)


@pytest.mark.parametrize("hinge", [0.0, 0.3])
@pytest.mark.parametrize("bias", [False, True])
def test_the_normal_equations_are_those_of_the_jacobian(hinge: float, bias: bool) -> None:
    equations = known(bias)
    mixing, factor = randn((1, 3, 3), stream(0, "m"), LIKE), LIKE.new_ones(1) * 1.3
    size = equations.features(mixing).norm()

    def residual(x: Tensor) -> Tensor:
        step, grown = x[:9].reshape(3, 3), x[9]
        at = mixing[0] + step @ mixing[0]
        gradient = factor * grown.exp() * equations.errors(equations.probabilities(at)).T @ at - equations.seen
        unit = (at @ equations.ones - 1) / 3**0.5 * bias
        negative = hinge * equations.features(at).clamp_max(0) / size
        return torch.cat([gradient.flatten() / equations.seen.norm(), unit, negative.flatten()])

    zero = LIKE.new_zeros(10)
    jacobian = torch.autograd.functional.jacobian(residual, zero)
    assert isinstance(jacobian, Tensor)
    matrix, slope = normal_equations(equations, point(equations, mixing, factor, hinge), Rules(hinge, free=True))
    assert torch.allclose(matrix[0], jacobian.T @ jacobian, atol=1e-10)
    assert torch.allclose(slope[0], jacobian.T @ residual(zero), atol=1e-10)


@pytest.mark.parametrize("free", [False, True])
def test_conjugate_gradients_make_the_same_step(free: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_free, "CLOSE", 1e-9)
    equations, rules = known(), Rules(0.3, free)
    here = point(equations, randn((2, 3, 3), stream(0, "m"), LIKE), LIKE.new_ones(2), rules.hinge)
    damping = LIKE.new_tensor([1e-2, 1.0])
    one, grown = dense_step(equations, here, damping, rules)
    other, grown_too = matrix_free.matrix_free_step(equations, here, damping, rules)
    assert torch.allclose(one, other, atol=1e-5)
    assert torch.allclose(grown, grown_too, atol=1e-5)


def test_multisets_come_by_how_likely_they_are_and_once_each() -> None:
    wanted = LIKE.new_tensor([1.1, 0.0, 1.9, 0.0])
    assert next(likely_multisets(wanted, 3, None)).tolist() == [0, 2, 2]
    given = likely_multisets(wanted, 3, torch.tensor([3, 0, 2]))
    assert [next(given).tolist() for _ in range(2)] == [[0, 2, 3], [0, 2, 2]]
    every = [tuple(m.tolist()) for m in likely_multisets(wanted[:3], 2, None)]
    assert len(every) == len(set(every)) == 6


def test_those_that_speak_are_likeliest_of_long_rows() -> None:
    rows = torch.diag(LIKE.new_tensor([3.0, 1.0, 2.0]))
    found = list(speakers(rows, torch.tensor([1, 0, 2]), 2))
    assert [f[:2].tolist() for f in found] == [[0, 2], [0, 1], [1, 2]]
    assert {tuple(sorted(f.tolist())) for f in found} == {(0, 1, 2)}


def test_who_speaks_is_above_what_the_spectrum_holds_beyond_the_batch() -> None:
    sizes = LIKE.new_tensor([1.0, 0.5, 1e-3, 9e-4, 8e-4, 0.0])
    assert speaking(sizes, 3, 1e-9) == 2
    assert speaking(sizes[:3], 3, 1e-9) == 3
    assert disturbed(sizes, 2) == pytest.approx(1e-3 * 2**0.5 / float(sizes.norm()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_precision_is_that_of_the_numbers_not_of_their_type(dtype: torch.dtype) -> None:
    numbers = (randn((50,), stream(0, "numbers"), LIKE) / 3).to(dtype).double()
    assert precision_of([numbers]) is dtype
