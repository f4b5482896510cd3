"""Inverting Gradients: match the direction of the update, with total variation as the image prior.

Geiping, Bauermeister, Dröge, Moeller: "Inverting Gradients - How easy is it to break privacy in federated
learning?", NeurIPS 2020, arXiv:2003.14053. Equation 4; equation 6 for FedAvg; hyperparameters of appendix C.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Attack, Card, Job, Watch
from fedspill.core.settings import Group, with_fields
from fedspill.core.types import Reconstruction, Update
from fedspill.core.watching.nested import JobsWatch
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.many_updates import Objective, Pending, Searching
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.matching.quality import estimator
from fedspill.inversion.matching.recursive_reading import AFTER, Reading, read_again, read_exactly
from fedspill.inversion.objective.distances import DISTANCES, DistanceName
from fedspill.inversion.priors.total_variation import EACH_VARIATION, Variation, weight_for
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.settings import SearchSettings


@dataclass(frozen=True)
class TotalVariation(Group):
    """The image prior: total variation of the normalised candidate.

    Attributes:
        tv: weight of the total variation; 0 leaves it out.
        tv_pooled: the weight for networks with max-pooling modules, whose updates need less of it; None takes `tv`.
        variation: the paper's "anisotropic" one, or "vectorial": the same in every direction, channels joined.
        relative: minimise distance * exp(tv * variation) instead of their sum, so that the prior's weight follows the
            distance: one value of `tv` then suits networks whose distances differ by a factor of 30, and the prior
            fades where the update is matched. Not in the paper.
    """

    tv: float = 1e-2
    tv_pooled: float | None = None
    variation: Variation = "anisotropic"
    relative: bool = False

    def objective(self, model: Model) -> Objective:
        """The distances of stacked candidates with the prior, weighted for this network."""
        tv = weight_for(model.module, self.tv, self.tv_pooled)

        def objective(distance: Float[Tensor, " r"], z: Float[Tensor, "r n c h w"]) -> Float[Tensor, " r"]:
            if not tv:
                return distance
            variation = tv * EACH_VARIATION[self.variation](z)
            return distance * variation.exp() if self.relative else distance + variation

        return objective


@dataclass(frozen=True)
class InvertingGradients:
    """The paper's method with its ablations as fields; a plan names those of `search` and `prior` as its own.

    Attributes:
        search: the optimisation, by Adam or L-BFGS in normalised space.
        prior: what the candidate must look like besides.
        distance: "cosine" (eq. 4), or "squared" (eq. 3) as an ablation, or the cosine of those values that are
            "surviving" in an update that was pruned.
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
        analytic: first recover exactly as many layers' activations as the gradient of one example in eval mode
            determines (`fedspill.inversion.recursion`). Where these determine the picture, there is nothing to search
            for; where they do not, a candidate's activations must agree with them as well. Not in the paper.
        surrogate: match local training, where it is short enough, as one gradient at parameters between those that
            were sent and those that came back (`fedspill.inversion.objective.surrogate`); the result is judged by the
            local training itself. Not in the paper.
    """

    search: SearchSettings = SearchSettings()
    prior: TotalVariation = TotalVariation()
    distance: DistanceName = "cosine"
    unknowns: Unknowns = Unknowns()
    converged_below: float = 0.1
    analytic: bool = False
    surrogate: bool = False

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return self.search.steps * self.search.rule().evaluations

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Searches for images whose update points where the observed one does."""
        begun = self._begin(Job(update, knowledge, rng), watch)
        if isinstance(begun, Reconstruction):
            return begun
        return self._end(begun, self.search.loop(watch).run(begun.problems, rng, watch), watch)

    def reconstruct_many(self, jobs: Sequence[Job], watch: Watch = UNWATCHED) -> list[Reconstruction]:
        """Each job as by `reconstruct`; searches for one gradient of one model in eval mode share a stack (Adam only).

        What a gradient tells exactly is still read job by job.
        """
        parts = JobsWatch(watch)
        begun = {i: self._begin_part(i, jobs, parts) for i in range(len(jobs))}
        pending = {i: job for i, job in begun.items() if isinstance(job, Pending)}
        outcomes = Searching(self.search.loop, self.search.stacked(watch), self.prior.objective).run(pending, parts)
        return [
            job if isinstance(job, Reconstruction) else self._end(job, outcomes[i], watch) for i, job in begun.items()
        ]

    def _begin_part(self, i: int, jobs: Sequence[Job], parts: JobsWatch) -> Reconstruction | Pending:
        name = f"read {i}"
        if (read := parts.kept(name)) is not None:
            return Reconstruction(**read)
        begun = self._begin(jobs[i], parts.watch(name, i, 1, len(jobs)))
        if isinstance(begun, Reconstruction):
            parts.keep(name, {name: dict(begun.__dict__)}, complete=True)
        return begun

    def _begin(self, job: Job, watch: Watch) -> Reconstruction | Pending:
        """The picture, if the update tells it exactly, else what is to be searched."""
        found, rng = observed_by(job.update, job.knowledge), job.rng
        observed, knowledge = found.update, found.knowledge
        tried = hypotheses(observed, knowledge, self.unknowns, rng, notes=found.notes)
        distance = DISTANCES[self.distance]
        assumed = [ForwardModel.of(h, knowledge, observed, distance, shorten=self.surrogate) for h in tried]
        read = read_exactly(assumed, self.converged_below, rng, watch) if self.analytic else Reading()
        if read.picture is not None and read.sure:
            return replace(read.picture, notes=(*read.picture.notes, *read.notes))
        return Pending(assumed, [self._problem(a, read.known) for a in assumed], read, rng)

    def _end(self, job: Pending, outcome: Found, watch: Watch) -> Reconstruction:
        kept, read, tried = job.assumed[outcome.problem], job.read, [a.hypothesis for a in job.assumed]
        result = conclude(kept.matching, outcome.variables[0], kept.labels, outcome, tried, self.converged_below)
        if self.analytic and outcome.complete:
            again = read_again(kept, outcome.variables[0], self.converged_below, watch)
            if again.picture is not None and again.sure:
                notes = (*result.notes, *again.picture.notes)
                result = replace(again.picture, objective=outcome.history, notes=notes)
                read = replace(read, notes=(*again.notes, AFTER))
        return replace(result, notes=(*result.notes, *kept.notes, *read.notes))

    def _problem(self, assumed: ForwardModel, known: KnownActivations | None) -> Problem:
        matching, labels, count = assumed.single_gradient, assumed.labels, assumed.hypothesis.num_examples
        model, spec = matching.model, matching.model.input
        objective, alone = self.prior.objective(model), [assumed.distance()]

        def draw(rng: torch.Generator) -> list[Tensor]:
            return [randn((count, *spec.encoded_shape), rng, model.like)]

        def value(variables: list[Tensor]) -> Float[Tensor, ""]:
            distance = alone[0](variables[0], labels)
            distance = distance if known is None else distance + known.distance(variables[0])
            return objective(distance[None], variables[0][None])[0]

        def values(variables: list[Tensor]) -> Float[Tensor, " r"]:
            if assumed.corrects:  # each run by its own training
                alone.extend(assumed.distance() for _ in range(len(alone), len(variables[0])))
                runs = zip(alone, variables[0], strict=False)
                distances = torch.stack([distance(z, labels) for distance, z in runs])
            else:
                distances = matching.each(variables[0], labels)
            distances = distances if known is None else distances + known.distances(variables[0])
            return objective(distances, variables[0])

        like = model.like.new_empty(spec.encoded_shape)
        low, high = (spec.project(torch.full_like(like, end)) for end in (-math.inf, math.inf))

        def project(variables: list[Tensor]) -> None:
            if self.search.boxed:
                variables[0].clamp_(low, high)

        quality = estimator(assumed.matching if assumed.corrects else matching, labels)
        return Problem(draw, value, project, values, quality)


_PAPER = InvertingGradients()
_FEDAVG = with_fields(_PAPER, lr=1.0)
# Chosen by measurement (docs/performance.md): exact where a gradient is, else better in a tenth of the iterations.
_STRONG = InvertingGradients(
    search=SearchSettings(steps=480, lr=0.3, schedule="cosine"),
    prior=TotalVariation(tv=0.7, tv_pooled=0.2, variation="vectorial", relative=True),
    analytic=True,
    surrogate=True,
)

CARD: Card[Attack] = Card(
    title="Inverting Gradients",
    paper="Geiping et al., NeurIPS 2020, arXiv:2003.14053",
    summary="Searches for images whose update points in the observed direction: cosine distance, total variation,"
    " signed Adam.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": with_fields(_STRONG, steps=240),
        "strong": _STRONG,
        # Table 1 (appendix C, table 4)
        "paper_lenet_untrained": with_fields(_PAPER, tv=1e-2),
        "paper_lenet_trained": with_fields(_PAPER, tv=1e-3),
        "paper_resnet20_untrained": with_fields(_PAPER, tv=0.0),
        "paper_resnet20_trained": with_fields(_PAPER, tv=1e-2),
        # Table 2 (appendix C, table 5): epochs, images, images per mini-batch
        "paper_fedavg_1_4_2": with_fields(_FEDAVG, tv=1e-6),
        "paper_fedavg_1_8_2": with_fields(_FEDAVG, tv=1e-6),
        "paper_fedavg_1_8_8": with_fields(_FEDAVG, tv=1e-4),
        "paper_fedavg_5_1_1": with_fields(_FEDAVG, tv=1e-4),
        "paper_fedavg_5_8_8": with_fields(_FEDAVG, tv=1e-4),
        # Table 3, ablations of the setup for a trained ResNet-18
        "ablation_squared": with_fields(_PAPER, distance="squared"),
        "ablation_no_tv": with_fields(_PAPER, tv=0.0),
        "ablation_unsigned": with_fields(_PAPER, signed=False),
        "ablation_lbfgs": with_fields(_PAPER, optimiser="lbfgs", lr=1e-4, steps=300),
    },
)
