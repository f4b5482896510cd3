"""Pictures from the gradient of those who speak: read exactly of a single example, else searched for.

The search is that of Inverting Gradients (Geiping et al. 2020), as in the experiments of the paper on fishing.
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.rng import randn
from fedspill.core.roles import Watch
from fedspill.core.settings import Group
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.matching.recursive_reading import Reading, read_exactly
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.priors.total_variation import EACH_VARIATION, Variation
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.settings import SearchSettings


@dataclass(frozen=True)
class PictureReading(Group):
    """How pictures come out of the gradient of few examples.

    Attributes:
        exact: of a single example read exactly what its gradient tells, by the recursion of docs/recursion.md, before
            anything is searched for. Not in the paper.
        tv: weight of the total variation of the normalised candidate.
        variation: "anisotropic", or "vectorial": the same in every direction, channels joined.
        relative: minimise distance * exp(tv * variation) instead of their sum. Not in the paper.
        converged_below: share of a blank image's cosine distance of gradients below which a search calls itself
            converged.
    """

    exact: bool = False
    tv: float = 0.1
    variation: Variation = "anisotropic"
    relative: bool = False
    converged_below: float = 0.1


PAPER_SEARCH = SearchSettings(steps=24_000, schedule="cosine")
"""Of the paper's experiments, but with hard signs for soft ones and random starts for patterned ones."""


@dataclass(frozen=True)
class Read:
    """What was read.

    Attributes:
        exactly: without a search, and its gradient is the observed one.
    """

    pictures: Reconstruction
    exactly: bool


def read_pictures(
    update: Update,
    knowledge: ServerKnowledge,
    how: PictureReading,
    search: SearchSettings,
    rng: torch.Generator,
    watch: Watch,
) -> Read:
    """The pictures behind an update of known labels.

    Raises:
        NotApplicable: nothing of the update can be matched.
    """
    found = observed_by(update, knowledge)
    tried = hypotheses(found.update, found.knowledge, Unknowns(), rng, notes=found.notes)
    assumed = [ForwardModel.of(h, found.knowledge, found.update, cosine_distance, shorten=False) for h in tried]
    read = read_exactly(assumed, how.converged_below, rng, watch) if how.exact else Reading()
    if read.picture is not None and read.sure:
        return Read(replace(read.picture, notes=(*read.picture.notes, *read.notes)), exactly=True)
    outcome = search.loop(watch).run([_problem(assumed[0], read, how, boxed=search.boxed)], rng, watch)
    got = conclude(assumed[0].matching, outcome.variables[0], assumed[0].labels, outcome, tried, how.converged_below)
    return Read(replace(got, notes=(*got.notes, *read.notes)), exactly=False)


def _problem(assumed: ForwardModel, read: Reading, how: PictureReading, *, boxed: bool) -> Problem:
    matching, labels, count = assumed.matching, assumed.labels, assumed.hypothesis.num_examples
    model, spec, known = matching.model, matching.model.input, read.known

    def draw(rng: torch.Generator) -> list[Tensor]:
        return [randn((count, *spec.encoded_shape), rng, model.like)]

    def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
        distance = matching.each(variables[0], labels)
        return _with_prior(distance if known is None else distance + known.distances(variables[0]), variables[0], how)

    def value(variables: list[Tensor]) -> Float[Tensor, ""]:
        distance = matching(variables[0], labels)
        distance = distance if known is None else distance + known.distance(variables[0])
        return _with_prior(distance[None], variables[0][None], how)[0]

    like = model.like.new_empty(spec.encoded_shape)
    low, high = (spec.project(torch.full_like(like, end)) for end in (-math.inf, math.inf))

    def project(variables: list[Tensor]) -> None:
        if boxed:
            variables[0].clamp_(low, high)

    return Problem(draw, value, project, values)


def _with_prior(distance: Float[Tensor, " r"], z: Float[Tensor, "r n c h w"], how: PictureReading) -> Tensor:
    if not how.tv:
        return distance
    variation = how.tv * EACH_VARIATION[how.variation](z)
    return distance * variation.exp() if how.relative else distance + variation
