"""The guess by the prior alone is what the search itself makes of total variation."""

import subprocess
import sys

import pytest
import torch

from fedspill.auditing.prior_only import STEPS, tv_only
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.priors.total_variation import total_variation
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam
from fedspill.testing.worlds import SPEC


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_search_without_an_update(dtype: torch.dtype) -> None:
    like = torch.zeros((), dtype=dtype)

    def project(variables: list[torch.Tensor]) -> None:
        variables[0].copy_(SPEC.project(variables[0]))

    problem = Problem(
        lambda rng: [randn((2, *SPEC.shape), rng, like)], lambda variables: total_variation(variables[0]), project
    )
    result = Search(SignedAdam(), STEPS).run([problem], stream(0, "tv"), UNWATCHED)
    assert torch.equal(tv_only(SPEC, 2, like, stream(0, "tv")), SPEC.decode(result.variables[0]))


def test_it_does_not_import_the_compiler() -> None:
    code = """
import sys, torch
from fedspill.auditing.prior_only import tv_only
from fedspill.core.inputs import ImageSpec
tv_only(ImageSpec((3, 8, 8)), 1, torch.zeros(()), torch.Generator())
print("torch._dynamo" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "False\n"
