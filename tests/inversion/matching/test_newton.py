"""Gauss-Newton on a whole gradient, against the picture."""

import torch

from fedspill.core.rng import randn, stream
from fedspill.inversion.matching.newton import Newton, solved
from tests.support.chains import chain, gradient_of, opposite, picture

LIKE = torch.zeros((), dtype=torch.float64)


def test_a_picture_near_the_right_one_becomes_exact() -> None:
    model, z = chain(), picture()
    label = opposite(model, z)
    near = z + 0.02 * randn(tuple(z.shape), stream(0, "test", "near"), LIKE)
    found = Newton(steps=12).refined(model, gradient_of(model, z, label), near, label)
    torch.testing.assert_close(found, z, rtol=1e-6, atol=1e-6)


def test_a_step_that_does_not_help_is_not_taken() -> None:
    model, z = chain(), picture()
    label = opposite(model, z)
    assert torch.equal(Newton(steps=3).refined(model, gradient_of(model, z, label), z, label), z)


def test_a_step_is_the_least_squares_solution() -> None:
    matrix, target = (randn(s, stream(0, "test", str(s)), LIKE) for s in ((7, 4), (7,)))
    found = solved(lambda x: matrix @ x, lambda y: matrix.T @ y, target, 20)
    torch.testing.assert_close(found, torch.linalg.lstsq(matrix, target[:, None]).solution[:, 0])
