"""GradInversion: match the gradient's values; images are plain, have the batch's statistics, and seeds agree on them.

Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov: "See through Gradients: Image Batch Recovery via GradInversion", CVPR
2021, arXiv:2104.07586. No official code is public; constants are those that the paper and later codes name.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.settings import Group, with_fields
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.objective.distances import DISTANCES, DistanceName
from fedspill.inversion.priors.batch_statistics import BatchStatistics
from fedspill.inversion.priors.group_consistency import Consensus, consensus
from fedspill.inversion.priors.total_variation import EACH_VARIATION, Variation, weight_for
from fedspill.inversion.search.batched import BatchedSearch
from fedspill.inversion.search.langevin import LangevinAdam, Phase
from fedspill.inversion.search.problem import Problem

Statistics = Literal["client", "running", "best", "none"]


@dataclass(frozen=True)
class Fidelity(Group):
    """What a candidate must look like besides (equation 9).

    Attributes:
        tv: weight of the total variation.
        tv_pooled: the weight for networks with max-pooling modules, as of `inverting_gradients`; None takes `tv`.
        l2: weight of the mean square of the normalised candidate.
        bn: weight of the distance to the statistics at BatchNorm layers.
        statistics: "client" takes those of the clients' batch, which have to be granted; "running" those of the model
            that was sent; "best" the client's where they are granted; "none" leaves them out.
        by_layer: "sum" adds up the layers' distances, the first one tenfold; "relative" takes each over what is
            expected there, which is not in the paper.
        variation: the kind of total variation, as of `inverting_gradients`.
        relative: minimise distance * exp(priors) instead of their sum, so that their weight follows the distance. Not
            in the paper.
    """

    tv: float = 1e-4
    tv_pooled: float | None = None
    l2: float = 1e-6
    bn: float = 0.1
    statistics: Statistics = "client"
    by_layer: Literal["sum", "relative"] = "sum"
    variation: Variation = "anisotropic"
    relative: bool = False

    def for_network(self, module: nn.Module) -> "Fidelity":
        """With the weight of the total variation that is its."""
        return replace(self, tv=weight_for(module, self.tv, self.tv_pooled))

    def joined(
        self, distance: Float[Tensor, " r"], z: Float[Tensor, "r n c h w"], statistics: BatchStatistics | None
    ) -> Float[Tensor, " r"]:
        """Distances of updates with the priors of their candidates."""
        priors = self.tv * EACH_VARIATION[self.variation](z) + self.l2 * z.square().flatten(1).mean(1)
        if statistics is not None:
            priors = priors + self.bn * statistics.each(z)
        return distance * priors.exp() if self.relative else distance + priors

    def of(self, model: Model, knowledge: ServerKnowledge) -> BatchStatistics | None:
        """The statistics that are compared; None for none.

        Raises:
            NotApplicable: the network or the server has none of these.
        """
        found = self._of(model, knowledge)
        if found is None or self.by_layer == "sum":
            return found
        return replace(found, first=1.0, relative=True)

    def _of(self, model: Model, knowledge: ServerKnowledge) -> BatchStatistics | None:
        if self.statistics == "none" or not self.bn:
            return None
        if self.statistics == "client" or (self.statistics == "best" and knowledge.bn_statistics is not None):
            return BatchStatistics.of_client(model, knowledge.bn_statistics)
        try:
            return BatchStatistics.running(model)
        except NotApplicable:
            if self.statistics == "best":
                return None
            raise


@dataclass(frozen=True)
class Grouping(Group):
    """How seeds are pulled to what they agree on (equations 12 and 13).

    Attributes:
        group: weight of the mean square distance to the consensus.
        consensus: "none" leaves it out, "mean" is the pixel-wise mean over the seeds, "registered" moves every seed's
            image onto that mean first.
        group_after: share of the run after which the pull begins.
        group_every: steps between two looks at what the seeds agree on.
    """

    group: float = 0.01
    consensus: Consensus = "registered"
    group_after: float = 0.25
    group_every: int = 50

    def __post_init__(self) -> None:
        if not 0 <= self.group_after <= 1 or self.group_every < 1:
            raise BadInput(
                f"group_after={self.group_after} must lie in [0, 1], group_every={self.group_every} be 1 or more"
            )


@dataclass(frozen=True)
class GradInversion:
    """Searches from several seeds at once; the one with the lowest objective is kept, the pull to the others left out.

    Attributes:
        steps: iterations.
        seeds: searches that run together.
        lr: Adam's step in normalised space, after a warm-up of `warm_up` of the run; it falls to 0 with a cosine.
        warm_up: share of the run.
        noise: of Langevin's steps, in step sizes.
        signed: give Adam the sign of the gradient. Not in the paper.
        gradient: weight of the distance of the updates.
        distance: "squared" (equation 4), or "cosine".
        fidelity: the priors.
        grouping: the pull.
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
    """

    steps: int = 20_000
    seeds: int = 8
    lr: float = 0.1
    warm_up: float = 0.0025
    noise: float = 0.2
    signed: bool = False
    gradient: float = 1e-3
    distance: DistanceName = "squared"
    fidelity: Fidelity = Fidelity()
    grouping: Grouping = Grouping()
    unknowns: Unknowns = Unknowns(label_method="column_minimum")
    converged_below: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seeds < 1 or not self.lr > 0 or self.noise < 0 or not 0 < self.warm_up < 1:
            raise BadInput(
                f"steps={self.steps} and seeds={self.seeds} must be 1 or more, lr={self.lr} above 0, noise={self.noise}"
                f" 0 or more, warm_up={self.warm_up} in (0, 1)"
            )

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return self.steps * self.seeds

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Searches for images whose update has the observed values.

        Raises:
            NotApplicable: the statistics that are wanted are not there.
        """
        found = observed_by(update, knowledge)
        observed, knowledge = found.update, found.knowledge
        tried = hypotheses(observed, knowledge, self.unknowns, rng, notes=found.notes)
        assumed = [ForwardModel.of(h, knowledge, observed, DISTANCES[self.distance], shorten=False) for h in tried]
        statistics, phase = self.fidelity.of(knowledge.model, knowledge), Phase()
        problems = [self._problem(one, statistics, phase) for one in assumed]
        seed = int(torch.randint(2**31, (), generator=rng))
        rule = LangevinAdam(self.lr, self.signed, noise=self.noise, warm_up=self.warm_up, seed=seed, phase=phase)
        outcome = BatchedSearch(rule, self.steps, self.seeds).run(problems, rng, watch)
        kept = assumed[outcome.problem]
        result = conclude(kept.matching, outcome.variables[0], kept.labels, outcome, tried, self.converged_below)
        for one in assumed:
            one.release()
        return replace(result, notes=(*result.notes, *kept.notes, self._said(statistics, knowledge)))

    def _said(self, statistics: BatchStatistics | None, knowledge: ServerKnowledge) -> str:
        if statistics is None:
            return "No statistics of BatchNorm layers were compared."
        whose = (
            "the clients' batch"
            if knowledge.bn_statistics is not None and self.fidelity.statistics != "running"
            else "the model"
        )
        return f"Compared with the statistics of {whose} at {len(statistics.expected)} BatchNorm layers."

    def _problem(self, assumed: ForwardModel, statistics: BatchStatistics | None, phase: Phase) -> Problem:
        """Variables are the candidates, and what each seed is pulled to."""
        matching, labels, count = assumed.matching, assumed.labels, assumed.hypothesis.num_examples
        model, spec = matching.model, matching.model.input
        fidelity = self.fidelity.for_network(model.module)
        like = model.like.new_empty(spec.encoded_shape)
        low, high = (spec.project(torch.full_like(like, end)) for end in (-math.inf, math.inf))

        def draw(rng: torch.Generator) -> list[Tensor]:
            start = randn((count, *spec.encoded_shape), rng, model.like)
            return [start, torch.zeros_like(start)]

        def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
            z, target = variables
            wanted = fidelity.joined(self.gradient * matching.each(z, labels), z, statistics)
            return wanted + self._pull(z, target, phase)

        def value(variables: list[Tensor]) -> Float[Tensor, ""]:
            return values([v[None] for v in variables])[0]

        def project(variables: list[Tensor]) -> None:
            z, target = variables
            z.clamp_(low, high)
            if self._pulls(phase) and len(z) > 1 and (phase.steps % self.grouping.group_every == 0 or not target.any()):
                told = labels.ndim == 1 and not labels.is_floating_point()
                classes = labels if told else labels.new_zeros(len(labels), dtype=torch.long)
                target.copy_(consensus(z, classes, self.grouping.consensus))

        return Problem(draw, value, project, values)

    def _pulls(self, phase: Phase) -> bool:
        return self.grouping.consensus != "none" and phase.done >= self.grouping.group_after

    def _pull(self, z: Tensor, target: Tensor, phase: Phase) -> Float[Tensor, " r"]:
        """0, with the derivative of the group's term: runs are judged by what the update says, not by each other."""
        none = 0.0 * target.flatten(1).square().sum(1)
        if not self._pulls(phase) or not bool(target.any()):
            return none
        term = self.grouping.group * (z - target.detach()).square().flatten(1).mean(1)
        return none + term - term.detach()


_PAPER = GradInversion()
# The search of `inverting_gradients:strong`, with the statistics where they are granted, and a pull that can be felt
# beside it. Chosen on test images from 8000 on (docs/grad_inversion.md).
_STRONG = with_fields(
    replace(_PAPER, unknowns=Unknowns()),
    steps=480,
    seeds=2,
    lr=0.3,
    signed=True,
    distance="cosine",
    gradient=1.0,
    tv=0.7,
    tv_pooled=0.2,
    variation="vectorial",
    relative=True,
    bn=0.03,
    by_layer="relative",
    statistics="best",
    group=1.0,
    group_every=16,
    noise=0.0,
)

CARD: Card[Attack] = Card(
    title="GradInversion",
    paper="Yin et al., CVPR 2021, arXiv:2104.07586",
    summary="Searches from several seeds for images with the update's values and the batch's BatchNorm statistics.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": with_fields(_STRONG, steps=240, seeds=2),
        "strong": _STRONG,
        "running_statistics": with_fields(_PAPER, statistics="running"),
        "no_statistics": with_fields(_PAPER, statistics="none"),
        "no_group": with_fields(_PAPER, consensus="none"),
        "mean_group": with_fields(_PAPER, consensus="mean"),
    },
)
