"""The reconstruction that a search makes of nothing: the prior without the update."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED
from fedspill.inversion.priors.total_variation import total_variation
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam

STEPS = 240


def tv_only(spec: ImageSpec, n: int, like: Tensor, rng: torch.Generator) -> Float[Tensor, "n c h w"]:
    """Signed Adam on total variation alone, from noise: what Inverting Gradients returns if it learns nothing."""

    def draw(rng: torch.Generator) -> list[Tensor]:
        return [randn((n, *spec.encoded_shape), rng, like)]

    def value(variables: list[Tensor]) -> Float[Tensor, ""]:
        return total_variation(variables[0])

    def project(variables: list[Tensor]) -> None:
        variables[0].copy_(spec.project(variables[0]))

    outcome = Search(SignedAdam(), STEPS).run([Problem(draw, value, project)], rng, UNWATCHED)
    return spec.decode(outcome.variables[0])
