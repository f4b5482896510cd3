"""GIAS: images are searched for as what a generator makes, first its latents, then its weights.

Jeon, Kim, Lee, Oh, Ok: "Gradient Inversion with Generative Image Prior", NeurIPS 2021, arXiv:2110.14962. A search of
pixels at the end is not in the paper. The generator comes from public data (docs/generators.md).
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, kind
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.settings import Group, with_fields
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.generators.components import components_generator
from fedspill.inversion.generators.files import read_generator
from fedspill.inversion.generators.generator import Generator, checked
from fedspill.inversion.generators.own import is_own, own_generator
from fedspill.inversion.generators.search import GenerativeSearch, Reached, Stage, StageName, Terms
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import Schedule, SignedAdam

NO_GENERATOR = (
    "gias needs a generator: `fedspill train generator plans/train/cifar10_generator.toml --out FILE.safetensors` makes"
    " one for its field generator; or grant public_data, of which it takes the principal components"
)


@dataclass(frozen=True)
class Prior(Group):
    """Which generator.

    Attributes:
        generator: a file that `fedspill train generator` wrote, or `package.module:factory`, which is called without
            arguments and returns an nn.Module from latents (n, *latent_shape), standard normal, to images (n, c, h, w)
            with values as people see them; "" takes the principal components of the public images, if such were
            granted.
        latent_shape: of one latent of a factory's generator; a file knows its own.
        components: the most that are taken of public images.
    """

    generator: str = ""
    latent_shape: tuple[int, ...] = ()
    components: int = 256

    def __post_init__(self) -> None:
        if self.components < 1:
            raise BadInput(f"components={self.components}: 1 or more is needed")
        if is_own(self.generator) != bool(self.latent_shape) or min(self.latent_shape, default=1) < 1:
            raise BadInput(
                f"generator={self.generator!r} with latent_shape={self.latent_shape}: a `package.module:factory` needs"
                " the shape of one latent, such as (128,); a file and public images know theirs, so leave it out there"
            )


@dataclass(frozen=True)
class Stages(Group):
    """How long each search is, and its steps; all by Adam.

    Attributes:
        steps: iterations of one run of all searches together.
        weights_share: of them for the generator's weights, in [0, 1).
        pixels_share: of them for pixels, in [0, 1); together with `weights_share` below 1.
        restarts: searches of latents from different starts; the lowest objective is gone on with.
        lr: first step of latents.
        weights_lr: of weights.
        pixels_lr: of pixels in normalised space, on signs.
        schedule: how step sizes fall in each search.

    Raises:
        BadInput: a number is out of range.
    """

    steps: int = 6000
    weights_share: float = 5 / 6
    pixels_share: float = 0.0
    restarts: int = 1
    lr: float = 3e-2
    weights_lr: float = 1e-3
    pixels_lr: float = 0.1
    schedule: Schedule = "drops"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")
        shares = self.weights_share, self.pixels_share
        if not (min(shares) >= 0 and sum(shares) < 1):
            raise BadInput(
                f"weights_share={self.weights_share}, pixels_share={self.pixels_share}: each must be 0 or more, their"
                " sum below 1, as latents come first"
            )
        if not all(0 < lr < math.inf for lr in (self.lr, self.weights_lr, self.pixels_lr)):
            raise BadInput(
                f"lr={self.lr}, weights_lr={self.weights_lr}, pixels_lr={self.pixels_lr}: each must be above 0"
            )

    def each(self, *, tunable: bool) -> list[Stage]:
        """The searches, those that have any iterations.

        Args:
            tunable: the generator has weights.
        """
        weights = round(self.steps * self.weights_share) if tunable else 0
        pixels = round(self.steps * self.pixels_share)
        latents = max(1, self.steps - weights - pixels)
        stages = [self._stage("latents", latents, self.lr, self.restarts)]
        if weights:
            stages.append(self._stage("weights", weights, self.weights_lr))
        if pixels:
            stages.append(self._stage("pixels", pixels, self.pixels_lr))
        return stages

    def _stage(self, name: StageName, steps: int, lr: float, restarts: int = 1) -> Stage:
        return Stage(name, Search(SignedAdam(lr, name == "pixels", self.schedule), steps, restarts))


@dataclass(frozen=True)
class GIAS:
    """Latents whose images have the observed update, then weights of the generator, of each image its own.

    Attributes:
        prior: the generator; a plan names its fields as its own.
        stages: the searches; likewise.
        likely: weight of the latents' mean square, in shares of the distance: what is far from a draw is unlikely.
        tv: weight of the total variation while weights or pixels are searched, in shares of the distance.
        distance: "cosine" of all values, or of those that are "surviving" in an update that was pruned.
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
        surrogate: match local training, where it is short enough, as one gradient (`inversion.objective.surrogate`).
    """

    prior: Prior = Prior()
    stages: Stages = Stages()
    likely: float = 0.0
    tv: float = 0.0
    distance: Literal["cosine", "surviving"] = "cosine"
    unknowns: Unknowns = Unknowns()
    converged_below: float = 0.1
    surrogate: bool = False

    def __post_init__(self) -> None:
        if not all(0 <= weight < math.inf for weight in (self.likely, self.tv)):
            raise BadInput(f"likely={self.likely} and tv={self.tv} must be 0 or more, and finite")

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return sum(stage.iterations for stage in self.stages.each(tunable=True))

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Searches for images whose update points where the observed one does, as far as the generator makes them.

        Raises:
            NotApplicable: the model takes no images, or there is neither a generator nor public images.
            BadInput: the generator cannot be used.
        """
        spec = knowledge.model.input
        if not isinstance(spec, ImageSpec):
            raise NotApplicable(f"gias searches for images; the model takes {kind(type(spec))}")
        found = observed_by(update, knowledge)
        generator = checked(self._generator(found.knowledge, spec), spec, found.knowledge.model.like)
        tried = hypotheses(found.update, found.knowledge, self.unknowns, rng, notes=found.notes)
        distance = DISTANCES[self.distance]
        assumed = [ForwardModel.of(h, found.knowledge, found.update, distance, shorten=self.surrogate) for h in tried]
        search = GenerativeSearch(generator, assumed, Terms(self.likely, self.tv))
        reached = search.run(self.stages.each(tunable=bool(generator.params)), rng, watch)
        return self._concluded(reached, assumed, generator)

    def _generator(self, knowledge: ServerKnowledge, spec: ImageSpec) -> Generator:
        if is_own(self.prior.generator):
            return own_generator(self.prior.generator, self.prior.latent_shape, spec.shape)
        if self.prior.generator:
            return read_generator(self.prior.generator)
        if knowledge.public_data is None:
            raise NotApplicable(NO_GENERATOR)
        return components_generator(knowledge.public_data.inputs, self.prior.components, spec.bounds)

    def _concluded(self, reached: Reached, assumed: list[ForwardModel], generator: Generator) -> Reconstruction:
        kept, tried = assumed[reached.assumed], [a.hypothesis for a in assumed]
        found = replace(reached.found, problem=reached.assumed, best_by_problem=reached.by_assumed)
        result = conclude(kept.matching, reached.z, kept.labels, found, tried, self.converged_below)
        note = (
            f"Searched for as images that the generator {generator.origin} makes: {', then '.join(reached.stages)}."
            " What the update does not tell is made up in the likeness of public images: resemblance alone is no leak."
        )
        return replace(result, notes=(*result.notes, note, *kept.notes))


_PAPER = GIAS()
# Chosen on images that are in no table (docs/generators.md).
_STRONG = with_fields(
    _PAPER,
    steps=480,
    weights_share=0.25,
    lr=0.1,
    schedule="cosine",
    likely=0.05,
    tv=0.3,
    distance="surviving",
    surrogate=True,
)

CARD: Card[Attack] = Card(
    title="GIAS",
    paper="Jeon et al., NeurIPS 2021, arXiv:2110.14962",
    summary="Searches for images as what a generator of public data makes: its latents, then its weights.",
    iterative=True,
    presets={"paper": _PAPER, "quick": with_fields(_STRONG, steps=240), "strong": _STRONG},
)
