"""A batch told apart at the head: the update as the equations of the head need it, and their solution."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.module.answers import is_log_probabilities
from fedspill.core.probing.head import features_and_logits
from fedspill.core.rng import randn, stream
from fedspill.core.roles import Watch
from fedspill.core.types import Update
from fedspill.core.watching.clock import around
from fedspill.inversion.disaggregation.errors import LogitErrors, logit_errors
from fedspill.inversion.disaggregation.readout import Disaggregated, Effort, Unlabelled, disaggregate
from fedspill.inversion.disaggregation.silent import heard_examples, precision_of
from fedspill.inversion.gradients.head import ClassifierGradient, head_gradient
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.gradients.rounding import relative_rounding
from fedspill.inversion.labels.known import Labels, known_labels

PROBES, SPREAD = 16, 2.0
"""Inputs without meaning, and their standard deviation, by which it is judged whether features are ever negative."""


@dataclass(frozen=True)
class ToldApart:
    """What the head's gradient says.

    Attributes:
        examples: those that speak.
        granted: the labels that were granted; None if those are used that make the equations hold.
    """

    examples: Disaggregated
    granted: Labels | None

    @property
    def count(self) -> int:
        """Examples of the batch, silent ones among them."""
        return int(self.examples.copies.sum()) + self.examples.silent

    def described(self) -> str:
        """In the words of a report."""
        told = self.examples
        return (
            f"Features and probabilities of {len(told.labels)} of {self.count} examples were read at the head,"
            f" {int(told.certain.sum())} of them certain (residual {told.residual:.0e})"
        )


def told_apart(
    update: Update, knowledge: ServerKnowledge, effort: Effort, rng: torch.Generator, watch: Watch
) -> ToldApart:
    """Each example's features and probabilities, by granted labels or by those that make the equations hold.

    Raises:
        NotApplicable: the head or the loss is of another kind, the update holds several steps, or there are as many
            examples as classes or more.
    """
    if not one_step(update, knowledge):
        raise NotApplicable("the equations are of one gradient; the update holds several local steps, or unknown")
    is_up = clock_of(watch)
    gradient = head_gradient(update, knowledge, knowledge.num_examples or 1)
    head = HeadEquations.of(gradient, update, knowledge)
    granted = known_labels(update, knowledge, rng, None)
    labels = granted or known_labels(update, knowledge, rng, head.count)
    told = head.solved(labels, granted is not None, effort, rng, is_up, free=not gradient.scaled)
    if not told.fits and gradient.scaled and not is_up():
        again = head.solved(labels, granted is not None, effort, rng, is_up, free=True)
        told = again if again.fits else told
    return ToldApart(told, granted)


@dataclass(frozen=True)
class HeadEquations:
    """The head's gradient and weights, with what is known of what lies before and behind it.

    Attributes:
        rows: the gradient, a row for each class, with the bias's in the last column if that was trained.
        weight: where the gradient was taken.
        bias: likewise; zeros where there is none.
        count: examples of the batch, or those that speak where their number is not known.
        errors: what the loss makes of probabilities.
        noise: relative error of the gradient.
        non_negative: features are 0 or more.
    """

    rows: Float[Tensor, "classes k"]
    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    count: int
    errors: LogitErrors
    noise: float
    non_negative: bool

    @classmethod
    def of(cls, gradient: ClassifierGradient, update: Update, knowledge: ServerKnowledge) -> "HeadEquations":
        """Those of an update.

        Raises:
            NotApplicable: the head or the loss is of another kind.
        """
        errors = logit_errors(knowledge.model)
        rows, names = gradient.rows(), list(gradient.values)
        if gradient.head.bias in gradient.values:
            rows = torch.cat([rows, gradient.bias()[:, None]], 1)
        bias = rows.new_zeros(len(rows)) if gradient.offset is None else gradient.offset
        noise = max(_unit(update, knowledge.model, names), relative_rounding(update, knowledge, names))
        count = knowledge.num_examples or heard_examples(rows, noise)
        return cls(rows, gradient.weight, bias, count, errors, noise, _never_negative(knowledge.model, gradient))

    def solved(
        self,
        labels: Labels | None,
        granted: bool,
        effort: Effort,
        rng: torch.Generator,
        is_up: Callable[[], bool],
        *,
        free: bool,
    ) -> Disaggregated:
        """The equations' solution."""
        values = None if labels is None else labels.values.to(self.rows.device)
        return disaggregate(
            self.rows,
            self.weight,
            self.bias,
            values if granted and values is not None else Unlabelled(self.count, values),
            non_negative=self.non_negative,
            rng=rng,
            errors=self.errors,
            noise=self.noise,
            free=free,
            effort=effort,
            is_up=is_up,
        )


def clock_of(watch: Watch) -> Callable[[], bool]:
    """Whether the watch's time is over, or that of whoever runs all this."""
    elsewhere = around()
    return lambda: watch.out_of_time() or elsewhere()


def _unit(update: Update, model: Model, names: list[str]) -> float:
    """The rounding of the coarsest type in which the gradient was computed or sent."""
    sent = precision_of([update.values[n] for n in names])
    return max(torch.finfo(sent).eps, torch.finfo(model.like.dtype).eps)


def _never_negative(model: Model, gradient: ClassifierGradient) -> bool:
    """Features are 0 or more for inputs without meaning.

    Raises:
        NotApplicable: the logits are something else than the head makes of its features.
    """
    drawn = SPREAD * randn((PROBES, *model.input.encoded_shape), stream(0, "features"), model.like)
    z = model.input.project(drawn)
    features, logits = features_and_logits(model, model.params, z, gradient.head)
    weight = gradient.head.rows(model.params[gradient.head.weight])
    made = features @ weight.T
    made = made if gradient.head.bias is None else made + model.params[gradient.head.bias]
    made = made.log_softmax(1) if is_log_probabilities(logits) else made
    if not bool((made - logits).norm() <= torch.finfo(logits.dtype).eps ** 0.5 * logits.norm()):
        raise NotApplicable(f"the logits are something else than the head {gradient.head.name!r} makes of its features")
    return bool((features >= 0).all())
