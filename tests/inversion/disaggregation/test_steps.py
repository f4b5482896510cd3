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
from fedspill.inversion.disaggregation.silent import disturbed, own_noise, precision_of, row_noise, speaking
from fedspill.inversion.disaggregation.starts import loudest_first
from fedspill.inversion.disaggregation.system import System, system
from tests.support.heads import LIKE, seen


def known(bias: bool = True) -> System:
    of = seen([1, 4, 4], bias=bias)
    basis = torch.linalg.svd(of.rows, full_matrices=False)[2][:3]
    errors = LogitErrors.plain(10, LIKE)
    return system(
        basis,
        of.rows @ basis.T,
        of.weight,
        of.bias,
        of.labels,
        errors.shares(of.labels),
        errors,
        torch.linspace(0.5, 2, 10, dtype=torch.float64),
    )


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


def test_the_blocks_are_those_of_the_normal_equations() -> None:
    equations, rules = known(), Rules(0.3)
    here = point(equations, randn((1, 3, 3), stream(0, "m"), LIKE), LIKE.new_ones(1), rules.hinge)
    whole = normal_equations(equations, here, rules)[0][0].reshape(3, 3, 3, 3)
    blocks = matrix_free.Equations(equations, here, rules).block(torch.tensor([[1, 2], [2, 0]]))
    for index, block in zip(([1, 2], [2, 0]), blocks, strict=True):
        assert torch.allclose(block, whole[index][:, :, index].reshape(6, 6), atol=1e-14)


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


def low_rank(small: float) -> Tensor:
    """Six rows of 40 numbers of two examples; the last two are as much smaller."""
    left, right = randn((6, 2), stream(0, "left"), LIKE), randn((2, 40), stream(0, "right"), LIKE)
    return torch.tensor([1.0, 1, 1, 1, small, small], dtype=torch.float64)[:, None] * (left @ right)


def test_rounding_is_in_proportion_to_a_row_and_noise_that_was_added_is_not() -> None:
    rows = low_rank(1e-3)
    rounded = rows.float().double()
    assert torch.allclose(row_noise(rounded, 2, 1.2e-7) / rows.norm(dim=1), LIKE.new_tensor(1.2e-7 / 4 / 40**0.5))
    noisy = row_noise(rows + 1e-5 * randn((6, 40), stream(0, "noise"), LIKE), 2, 1.2e-7)
    assert float(noisy.max() / noisy.min()) < 1.1
    assert 1e-6 < float(noisy.max()) < 1e-4


def test_where_nothing_is_beyond_the_batch_noise_is_taken_to_be_alike() -> None:
    rows = low_rank(1e-3)
    loudest = float(rows.norm(dim=1).max())
    assert row_noise(rows, 5, 1.2e-7).tolist() == pytest.approx([1.2e-7 / 4 * loudest / 40**0.5] * 6)


def test_the_own_class_of_a_sure_example_is_as_noisy_as_one() -> None:
    features, shares = LIKE.new_tensor([3.0, 4.0, 1.0]), LIKE.new_tensor([0.5])
    rows = 0.5 * torch.outer(LIKE.new_tensor([1e-6, -1e-6]), features)
    found = own_noise(rows, torch.tensor([1]), shares, 1.2e-7)
    assert found.tolist() == pytest.approx([0.0, 1.2e-7 / 4 * 26**0.5 * 0.5 / 3**0.5])


def test_a_bias_gradient_that_was_not_sent_sets_no_noise() -> None:
    rows = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows[1, -1] = 0.0
    shares, labels = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([1, 2])
    assert torch.equal(own_noise(rows, labels[:1], shares[:1], 1e-7), torch.zeros(4, dtype=torch.float64))
    size = rows[2].norm() / rows[2, -1].abs()
    expected = 1e-7 / 4 * size * 0.5 / 6**0.5
    assert own_noise(rows, labels, shares, 1e-7)[1:3].tolist() == pytest.approx([float(expected)] * 2)


def test_nothing_is_found_one_by_one_when_the_time_is_over() -> None:
    def never(labels: Tensor) -> System:
        raise AssertionError(labels)

    assert loudest_first(never, lambda labels: [0], [1.0], stream(0, "one"), lambda: True) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_the_precision_is_that_of_the_numbers_not_of_their_type(dtype: torch.dtype) -> None:
    numbers = (randn((50,), stream(0, "numbers"), LIKE) / 3).to(dtype).double()
    assert precision_of([numbers]) is dtype
