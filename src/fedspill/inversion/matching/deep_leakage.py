"""What DLG and iDLG share: squared distance, L-BFGS, labels given or searched for together with the images."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.probing.head import last_linear
from fedspill.core.rng import randn
from fedspill.core.roles import Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.gradients.defended.sent import as_it_was, noise_on
from fedspill.inversion.gradients.losses import takes_probabilities
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.kernels.products import SMALLEST
from fedspill.inversion.labels.scale import head_multiple
from fedspill.inversion.matching.hypotheses import Hypothesis, Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.objective.adapted import Consistent, adapted
from fedspill.inversion.objective.distances import Distance, squared_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.search.problem import Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import LBFGS

STRAY = 0.03
"""The prior's weight, as a share of the update's squares, where few values were sent as they are. Chosen on other
pictures than the grid's (docs/defences.md)."""
MOST = 2.0
"""Ratio of the lengths of two updates beyond which their scales do not fit."""
UNSCALED = (
    "The update's length does not fit that of any candidate's: a squared distance takes it for the mean gradient,"
    " and finds nothing in a multiple of it; attacks by the cosine, such as inverting_gradients, do."
)


@dataclass(frozen=True)
class DeepLeakage:
    """The search of DLG (Zhu et al. 2019, eq. 4) with its settings.

    Attributes:
        rule: L-BFGS and its settings.
        steps: outer iterations of one run.
        restarts: runs at most; they end as soon as one falls below `tolerance`.
        tolerance: the squared distance at which the updates count as equal.
        give_up: (iteration, level) at which a run counts as diverged.
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank image's cosine distance of updates that counts as converged.
    """

    rule: LBFGS
    steps: int
    restarts: int
    tolerance: float
    give_up: tuple[int, float] | None
    unknowns: Unknowns
    converged_below: float

    def reconstruct(
        self,
        update: Update,
        knowledge: ServerKnowledge,
        rng: torch.Generator,
        watch: Watch,
        *,
        joint_labels: bool,
    ) -> Reconstruction:
        """Searches for images (and labels) whose update equals the observed one."""
        found = observed_by(update, knowledge)
        observed, knowledge = found.update, found.knowledge
        tried = hypotheses(observed, knowledge, self.unknowns, rng, infer=not joint_labels, notes=found.notes)
        told = [_factor(observed, knowledge, h) for h in tried]
        factors = [f or 1.0 for f in told]
        matchings = [
            Matching(knowledge.model, _divided(observed, f), h.training, knowledge.num_clients, _distance(knowledge, t))
            for h, f, t in zip(tried, factors, told, strict=True)
        ]
        every = zip(matchings, tried, factors, strict=True)
        expected = [_expected(m, observed, f, h.num_examples, knowledge) for m, h, f in every]
        problems = [_problem(m, h, e.prior) for m, h, e in zip(matchings, tried, expected, strict=True)]
        # Noise alone leaves more than a run that diverged without any.
        give_up = self.give_up and (self.give_up[0], self.give_up[1] + max(e.residual for e in expected))
        search = Search(self.rule, self.steps, self.restarts, self.tolerance, give_up)
        result = search.run(problems, rng, watch)
        labels = _labels(result.variables, tried[result.problem])
        matching = matchings[result.problem]
        got = conclude(matching, result.variables[0], labels, result, tried, self.converged_below)
        return replace(
            got, notes=(*got.notes, *_scale_notes(got, matching, result.variables[0], labels, factors[result.problem]))
        )


def _factor(observed: Update, knowledge: ServerKnowledge, tried: Hypothesis) -> float | None:
    """By what a squared distance must divide the update: None where the classification layer does not tell it."""
    told = head_multiple(observed, replace(knowledge, labels=tried.labels), tried.num_examples)
    return None if told is None else 1.0 if told.allows(1.0) else told.factor


def _distance(knowledge: ServerKnowledge, told: float | None) -> Distance:
    """The squared one, adapted to what is known of a defence; a length that the head tells is known though clipped.

    Not to layers that were altered: without bounds and a prior, L-BFGS read less where a layer was left out.
    """
    known = knowledge.defence
    if known is None:
        return squared_distance
    known = replace(known, left_out=frozenset[str](), scale_free=known.scale_free and told is None)
    return adapted(squared_distance, known, knowledge.num_clients)


@dataclass(frozen=True)
class _Expected:
    """What a defence that is known makes of the objective.

    Attributes:
        prior: weight of the mean square of the encoded inputs.
        residual: the objective for the private data.
    """

    prior: float = 0.0
    residual: float = 0.0


def _expected(
    matching: Matching, observed: Update, factor: float, num_examples: int, knowledge: ServerKnowledge
) -> _Expected:
    """The negative log posterior, where the encoded inputs are standard normal, in units of the squares.

    That is the squares of what does not fit, and the noise's variance times the squares of the inputs. Where fewer
    values were sent as they are than the inputs have, many inputs fit, of which a little of the prior picks one.

    Args:
        matching: what is minimised.
        observed: the update as it was sent.
        factor: by what it was divided.
    """
    known, values = knowledge.defence, {k: v for k, v in observed.values.items() if v.numel()}
    altered = known is not None and (known.survivors or known.cut or known.signs)
    if known is None or not (altered or known.is_noisy or known.bits):
        return _Expected()
    noise = sum(noise_on(k, observed, knowledge, known, 1 / factor) ** 2 * v.numel() for k, v in values.items())
    unit = matching.observed.norm() ** 2
    if not _is_squared(matching.distance):
        # 1 - cosine of two updates is half the square of their difference over that of their length.
        noise, unit = noise / (2 * max(unit, SMALLEST)), 1.0
    inputs = num_examples * math.prod(matching.model.input.encoded_shape)
    by_noise = noise / max(1, sum(v.numel() for v in values.values())) * inputs
    told = sum(int(as_it_was(observed, k, known).sum()) for k in values) if altered and not known.signs else 0
    prior = max(by_noise, STRAY * unit if altered and told < inputs else 0.0)
    return _Expected(prior, noise + prior)


def _is_squared(distance: Distance) -> bool:
    return distance is squared_distance or (isinstance(distance, Consistent) and distance.squared)


def _divided(update: Update, factor: float) -> Update:
    return update if factor == 1 else replace(update, values={k: v / factor for k, v in update.values.items()})


def _scale_notes(got: Reconstruction, matching: Matching, z: Tensor, labels: Tensor, factor: float) -> tuple[str, ...]:
    if factor != 1 or got.converged or matching.distance is not squared_distance:
        return multiple_note(factor)
    return () if _fits_in_size(matching, z, labels) else (UNSCALED,)


def _fits_in_size(matching: Matching, z: Tensor, labels: Tensor) -> bool:
    """What was found, at last, sends an update of about the observed length."""
    sent = Update(matching.observed.kind, matching.guess(z, labels)).norm()
    return 1 / MOST < sent / matching.observed.norm() < MOST if sent == sent else True


def _labels(variables: list[Tensor], hypothesis: Hypothesis) -> Tensor:
    """Given classes, or the probabilities that are searched for."""
    if hypothesis.labels is None:
        return variables[1].softmax(1)
    return hypothesis.labels.to(variables[0].device)


def _problem(matching: Matching, hypothesis: Hypothesis, prior: float) -> Problem:
    model, spec, n = matching.model, matching.model.input, hypothesis.num_examples
    classes = 0 if hypothesis.labels is not None else _num_classes(matching)

    def draw(rng: torch.Generator) -> list[Tensor]:
        images = randn((n, *spec.encoded_shape), rng, model.like)
        return [images, randn((n, classes), rng, model.like)] if classes else [images]

    def value(variables: list[Tensor]) -> Float[Tensor, ""]:
        distance = matching(variables[0], _labels(variables, hypothesis))
        return distance + prior * variables[0].square().mean() if prior else distance

    def project(variables: list[Tensor]) -> None:
        """DLG searches without bounds."""

    return Problem(draw, value, project)


def _num_classes(matching: Matching) -> int:
    if not takes_probabilities(matching.model):
        raise NotApplicable(
            "joint labels are searched for as class probabilities, which the loss does not take; grant or infer labels"
        )
    head = last_linear(matching.model)
    classes = len(head.rows(matching.model.params[head.weight]))
    if classes < 2:
        raise NotApplicable(f"joint labels need at least 2 classes; the head {head.weight!r} has {classes}")
    return classes
