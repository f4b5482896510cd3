"""Searches of tests: a rule of few steps, a start, and whether two found the same."""

import pytest
import torch

from fedspill.core.rng import randn
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.step_rules import SignedAdam

DOUBLE = torch.float64


LIKE = torch.zeros((), dtype=DOUBLE)


def rough(centre: float, floor: float) -> Problem:
    """Many valleys, so that every start ends elsewhere; `values` is `value` of each."""

    def each(x: torch.Tensor) -> torch.Tensor:
        return ((x - centre).pow(2) + 2 * torch.sin(5 * x)).sum(-1) + floor

    def project(v: list[torch.Tensor]) -> None:
        v[0].clamp_(-3, 3)

    return Problem(lambda rng: [randn((4,), rng, LIKE)], lambda v: each(v[0]), project, lambda v: each(v[0]))


RULE = SignedAdam(lr=0.05)


def same(one: Found, two: Found) -> None:
    torch.testing.assert_close(one.variables[0], two.variables[0], rtol=1e-9, atol=1e-9)
    assert one.history == pytest.approx(two.history, rel=1e-9)
    assert one.best_by_problem == pytest.approx(two.best_by_problem, rel=1e-9)
    assert (one.problem, one.diverged, one.complete) == (two.problem, two.diverged, two.complete)
