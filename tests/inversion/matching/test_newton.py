"""Gauss-Newton on what the recursion leaves, against the picture."""

import pytest
import torch

from fedspill.core.errors import NotApplicable
from fedspill.core.rng import randn, stream
from fedspill.inversion.matching.newton import Newton, _Errors, solved
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.known_activations import Below, below
from fedspill.inversion.recursion.single_head import heads_of_one
from tests.support.chains import ENOUGH, HARDLY, chain, gradient_of, opposite, picture

LIKE = torch.zeros((), dtype=torch.float64)


def left(widths: tuple[int, int]) -> Below:
    model, z = chain(widths), picture()
    label = opposite(model, z)
    gradient = gradient_of(model, z, label)
    return below(model, gradient, heads_of_one(model, Dataflow(model), gradient, label)[0])


def test_a_picture_near_the_right_one_becomes_exact() -> None:
    known, z = left(HARDLY), picture()
    assert (sorted(known.gradient), known.linear) == (["0.weight", "2.weight"], {"2.weight"})
    near = z + 0.02 * randn(tuple(z.shape), stream(0, "test", "near"), LIKE)
    found = Newton(steps=12).refined(known, near)
    torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)


def test_a_step_that_does_not_help_is_not_taken() -> None:
    known, z = left(HARDLY), picture()
    assert torch.equal(Newton(steps=3).refined(known, z), z)


def test_what_is_read_whole_leaves_nothing_to_solve_for() -> None:
    with pytest.raises(NotApplicable, match="nothing more can be solved for"):
        left(ENOUGH)


def test_a_step_is_the_least_squares_solution() -> None:
    matrix, target = (randn(s, stream(0, "test", str(s)), LIKE) for s in ((7, 4), (7,)))
    found = solved(lambda x: matrix @ x, lambda y: matrix.T @ y, target, 20)
    torch.testing.assert_close(found, torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0])


def test_the_jacobian_written_down_gives_the_products_that_autograd_gives() -> None:
    known, z = left(HARDLY), picture()
    errors = _Errors(known, frozenset(known.gradient))
    near = z + 0.02 * randn(tuple(z.shape), stream(0, "test", "near"), LIKE)
    rest, *written = errors.linearised(near, z.numel())
    _, *asked = errors.linearised(near, 0)
    for ours, autograds, like in zip(written, asked, (near, rest), strict=True):
        values = randn(tuple(like.shape), stream(0, "test", "values"), LIKE)
        torch.testing.assert_close(ours(values), autograds(values), rtol=1e-9, atol=1e-12)


def test_too_few_equations_are_not_begun_with() -> None:
    with pytest.raises(NotApplicable, match="too few for 128 values"):
        left((6, 1))
