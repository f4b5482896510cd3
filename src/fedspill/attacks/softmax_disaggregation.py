"""Softmax disaggregation: a batch of an honest server, told apart at the head and read down to its inputs. Own method.

The gradient of a linear head with a softmax behind it determines each example's features and probabilities, as long as
there are fewer examples than classes; below it every fully connected layer is a least squares. Nearest relatives: Ma et
al. 2023 (iLRG, class means and probabilities, for labels), Dimitrov et al. 2024 (SPEAR, arXiv:2403.03945, by the zeros
of ReLUs, exponential in the batch), Kariyappa et al. 2023 (Cocktail Party Attack, arXiv:2209.05578, by statistics of
the inputs), Zhu & Blaschko 2021 (R-GAP, arXiv:2010.07733, single examples). docs/batches.md says what was looked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import features_and_logits
from fedspill.core.rng import randn, stream
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.core.watching.clock import around
from fedspill.inversion.disaggregation.errors import LogitErrors, logit_errors
from fedspill.inversion.disaggregation.fully_connected import Descended, certified, descend
from fedspill.inversion.disaggregation.local_steps.readout import (
    Head,
    Trained,
    check_followed,
    read_local_steps,
)
from fedspill.inversion.disaggregation.readout import (
    Disaggregated,
    Effort,
    disaggregate,
    disaggregate_unlabelled,
)
from fedspill.inversion.disaggregation.silent import heard_examples, precision_of
from fedspill.inversion.gradients.head import ClassifierGradient, head_gradient
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.gradients.rounding import relative_rounding
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.labels.known import Labels, known_labels
from fedspill.inversion.network.dense import Dense, dense_layers
from fedspill.inversion.network.trace import trace
from fedspill.inversion.recursion.batch import read_batch

PROBES, SPREAD = 16, 2.0
"""Inputs without meaning, and their standard deviation, by which it is judged whether features are ever negative."""


@dataclass(frozen=True)
class SoftmaxDisaggregation:
    """Solves the head's gradient for every example's features and probabilities, then each layer's for its inputs.

    Needs a head that is linear in its features, softmax cross-entropy (plain, smoothed or with class weights), fewer
    examples than classes, and a single gradient, or a few local steps of a known protocol. Converged means that all n
    examples are certified: the equations of the head hold up to rounding, and each example's inputs reproduce its
    features by more equations than they have unknowns; or the whole local training gives the update up to rounding.

    Attributes:
        starts: random starts of one solution.
        guesses: multisets of labels that are tried where none are granted, or choices of those examples of which the
            network is not so sure that they send nothing.
        rounds: of a longer look, with 48 starts each, where no start led to a solution; behind several local steps half
            as many first guesses are gone on from, and a tenth of the multisets of labels are tried.
    """

    starts: int = 12
    guesses: int = 60
    rounds: int = 4

    def __post_init__(self) -> None:
        if self.starts < 1 or self.guesses < 1 or self.rounds < 0:
            raise BadInput(
                f"starts={self.starts} and guesses={self.guesses} must be 1 or more, rounds={self.rounds} 0 or more"
            )

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The inputs of the examples that speak.

        Raises:
            NotApplicable: the head or the loss is of another kind, there are as many examples as classes or more, no
                layer before the head is read, or the update holds local steps that cannot be followed.
        """
        if not one_step(update, knowledge):
            return self._of_local_steps(update, knowledge, rng, _clock(watch))
        told, labels = self._told(update, knowledge, rng, _clock(watch))
        try:
            layers = dense_layers(trace(knowledge.model))
        except NotApplicable:
            return _through_other_layers(update, knowledge, told, labels, rng, watch)
        return _rebuilt(_descended(layers, update, knowledge, told), told, labels, knowledge)

    def _of_local_steps(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, is_up: Callable[[], bool]
    ) -> Reconstruction:
        """The inputs behind several steps of local training.

        Raises:
            NotApplicable: these cannot be followed, or no labels are known.
        """
        layers = _chain(knowledge.model)
        check_followed(layers, update, knowledge)
        count = knowledge.num_examples or 1
        errors, gradient = logit_errors(knowledge.model), head_gradient(update, knowledge, count)
        labels = known_labels(update, knowledge, rng, count)
        if labels is None:
            raise NotApplicable("several local steps are followed where labels were granted or can be inferred")
        head = _Head.of(gradient, update, knowledge, errors).alone()
        values = labels.values.to(gradient.weight.device)
        few, tries = max(1, self.guesses // 10), max(1, self.rounds // 2)
        trained = read_local_steps(layers, update, knowledge, head, values, rng, is_up, guesses=few, attempts=tries)
        return _behind_steps(trained, labels, knowledge)

    def _told(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, is_up: Callable[[], bool]
    ) -> tuple[Disaggregated, Labels | None]:
        """What the head's gradient says, by granted labels or by those that make the equations hold."""
        model = knowledge.model
        errors = logit_errors(model)
        gradient = head_gradient(update, knowledge, knowledge.num_examples or 1)
        head = _Head.of(gradient, update, knowledge, errors)
        granted = known_labels(update, knowledge, rng, None)
        labels = granted or known_labels(update, knowledge, rng, head.count)
        effort = Effort(self.starts, self.guesses, self.rounds)
        told = head.solved(labels, granted is not None, effort, rng, is_up, free=not gradient.scaled)
        if not told.fits and gradient.scaled and not is_up():
            again = head.solved(labels, granted is not None, effort, rng, is_up, free=True)
            told = again if again.fits else told
        return told, granted


@dataclass(frozen=True)
class _Head:
    """The head's gradient and weights, with what is known of what lies before and behind it."""

    rows: Float[Tensor, "classes k"]
    weight: Float[Tensor, "classes d"]
    bias: Float[Tensor, " classes"]
    count: int
    errors: LogitErrors
    noise: float
    non_negative: bool

    @classmethod
    def of(
        cls, gradient: ClassifierGradient, update: Update, knowledge: ServerKnowledge, errors: LogitErrors
    ) -> "_Head":
        rows, names = gradient.rows(), list(gradient.values)
        if gradient.head.bias in gradient.values:
            rows = torch.cat([rows, gradient.bias()[:, None]], 1)
        bias = rows.new_zeros(len(rows)) if gradient.offset is None else gradient.offset
        noise = max(_unit(update, knowledge.model, names), relative_rounding(update, knowledge, names))
        count = knowledge.num_examples or heard_examples(rows, noise)
        return cls(rows, gradient.weight, bias, count, errors, noise, _never_negative(knowledge.model, gradient))

    def alone(self) -> Head:
        """It without what belongs to a single gradient."""
        return Head(self.rows, self.weight, self.bias, self.non_negative, self.errors)

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
        if granted and values is not None:
            return disaggregate(
                self.rows,
                self.weight,
                self.bias,
                values,
                non_negative=self.non_negative,
                rng=rng,
                errors=self.errors,
                noise=self.noise,
                free=free,
                effort=effort,
                is_up=is_up,
            )
        return disaggregate_unlabelled(
            self.rows,
            self.weight,
            self.bias,
            self.count,
            values,
            non_negative=self.non_negative,
            rng=rng,
            errors=self.errors,
            noise=self.noise,
            free=free,
            effort=effort,
            is_up=is_up,
        )


def _chain(model: Model) -> list[Dense]:
    try:
        return dense_layers(trace(model))
    except NotApplicable as error:
        raise NotApplicable(f"several local steps are followed through fully connected networks: {error}") from None


def _behind_steps(trained: Trained, labels: Labels, knowledge: ServerKnowledge) -> Reconstruction:
    """What was found behind several local steps, with its certificates."""
    spec, like = knowledge.model.input, knowledge.model.like
    z = trained.inputs.reshape(len(trained.inputs), *spec.encoded_shape)
    sure = trained.certain & _in_range(knowledge.model, z)
    note = (
        f"The update holds several local steps. Training on what was found gives it up to {trained.residual:.1g} times"
        f" its rounding, and {int(sure.sum())} of {len(z)} examples are certified."
    )
    return Reconstruction(
        inputs=spec.decode(z).to(like),
        labels=trained.labels.to(like.device),
        label_method=labels.method,
        confidence=sure.to(like),
        converged=bool(sure.all()),
        notes=(note,),
        origins=tuple(f"example {k}" for k in range(len(z))),
        marks=tuple[Mark, ...](_mark(one, 1) for one in sure.tolist()),
    )


def _clock(watch: Watch) -> Callable[[], bool]:
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
    if not bool((made - logits).norm() <= torch.finfo(logits.dtype).eps ** 0.5 * logits.norm()):
        raise NotApplicable(f"the logits are something else than the head {gradient.head.name!r} makes of its features")
    return bool((features >= 0).all())


def _through_other_layers(
    update: Update,
    knowledge: ServerKnowledge,
    told: Disaggregated,
    granted: Labels | None,
    rng: torch.Generator,
    watch: Watch,
) -> Reconstruction:
    """Pictures from features through convolutions: by the shift structure of their patches, then layer by layer.

    Raises:
        NotApplicable: no layer below the head was read.
    """
    heard, count = len(told.labels), int(told.copies.sum()) + told.silent
    said = (
        f"Features and probabilities of {heard} of {count} examples were read at the head, {int(told.certain.sum())} of"
        f" them certain (residual {told.residual:.0e})"
    )
    gradient = mean_gradient(update, knowledge, list(update.values), knowledge.num_examples)
    try:
        reading = read_batch(knowledge.model, gradient.values, told.features, told.errors, rng, watch)
    except NotApplicable as error:
        raise NotApplicable(f"{said}; images need another attack: {error}") from None
    if reading.pictures is None:
        raise NotApplicable(f"{said}; no layer below it could be read, so images need another attack")
    z = reading.pictures
    sure = (reading.certain & (told.copies.to(z.device) == 1) & told.fits) & _in_range(knowledge.model, z)
    note = f"{said}. Read from there, layer by layer: {reading.described()}. {int(sure.sum())} of them are certified."
    return _shown(z, sure, told, granted, knowledge, note)


def _descended(layers: list[Dense], update: Update, knowledge: ServerKnowledge, told: Disaggregated) -> Descended:
    names = [n for layer in layers for n in (layer.weight, layer.bias) if n is not None]
    gradient = mean_gradient(update, knowledge, names, knowledge.num_examples)
    params = {n: knowledge.model.params[n].double() for n in names}
    return descend(layers, params, gradient.values, told, told.factor)


def _rebuilt(
    down: Descended, told: Disaggregated, granted: Labels | None, knowledge: ServerKnowledge
) -> Reconstruction:
    """What was reached at the input.

    Raises:
        NotApplicable: the descent ended before.
    """
    heard, count = len(told.labels), int(told.copies.sum()) + told.silent
    if down.left:
        raise NotApplicable(
            f"features of {heard} of {count} examples were read at the head (residual {told.residual:.0e}), but"
            f" {down.left} layers before it were not passed: {down.ended}"
        )
    spec = knowledge.model.input
    z = down.inputs.reshape(heard, *spec.encoded_shape)
    sure = certified(down, told, lambda drawn: _away(knowledge.model, z, drawn)) & _in_range(knowledge.model, z)
    return _shown(z, sure, told, granted, knowledge, _note(down, told, int(sure.sum())))


def _shown(
    z: Float[Tensor, "m ..."],
    sure: Bool[Tensor, " m"],
    told: Disaggregated,
    granted: Labels | None,
    knowledge: ServerKnowledge,
    note: str,
) -> Reconstruction:
    """What was reached at the input, with its certificates."""
    spec, like, heard = knowledge.model.input, knowledge.model.like, len(told.labels)
    count = int(told.copies.sum()) + told.silent
    marks: list[Mark] = [_mark(*pair) for pair in zip(sure.tolist(), told.copies.tolist(), strict=True)]
    return Reconstruction(
        inputs=spec.decode(z).to(like),
        labels=told.labels.to(like.device),
        label_method=None if granted is not None else "equations of the head",
        confidence=sure.to(like),
        converged=bool(sure.all()) and heard == count and knowledge.num_examples is not None,
        notes=(note, *multiple_note(told.factor)),
        origins=tuple(f"direction {k}" for k in range(heard)),
        marks=tuple(marks),
    )


def _mark(sure: bool, copies: int) -> Mark:
    return "alone" if sure else "mixture" if copies > 1 else "unsure"


def _in_range(model: Model, z: Float[Tensor, "m ..."]) -> Bool[Tensor, " m"]:
    outside = (z - model.input.project(z)).flatten(1).norm(dim=1)
    return outside <= RANGE * z.flatten(1).norm(dim=1).clamp_min(1e-300)


def _away(model: Model, z: Float[Tensor, "m ..."], drawn: Float[Tensor, "r m d"]) -> Float[Tensor, "r m"]:
    """Root mean square distance of inputs, over what is certified of an image's range or of a row's size."""
    spec, others = model.input, drawn.reshape(len(drawn), *z.shape)
    if isinstance(spec, ImageSpec):
        size = z.new_full((len(z),), spec.bounds[1] - spec.bounds[0])
        others, z = spec.decode(others), spec.decode(z)
    else:
        size = z.flatten(1).square().mean(1).sqrt()
    return (others - z).flatten(2).square().mean(2).sqrt() / (CLAIMED * size)


CLAIMED = 1e-3
"""Root mean square error up to which an input is certified: 60 dB of an image."""
RANGE = 1e-2
"""Share of an input that may lie outside the valid range."""


def _note(down: Descended, told: Disaggregated, sure: int) -> str:
    silent = f" {told.silent} send nothing above rounding: the network is sure of them." if told.silent else ""
    return (
        f"{len(told.labels)} examples were told apart at the head (residual {told.residual:.0e}) and"
        f" {sure} certified; together they reproduce the layers' gradients up to {down.unshown:.0e}.{silent}"
    )


_PAPER = SoftmaxDisaggregation()

CARD: Card[Attack] = Card(
    title="Softmax disaggregation",
    paper="fedspill, docs/batches.md",
    summary="Tells a batch apart at a softmax head and reads the layers below down to the inputs.",
    presets={
        "paper": _PAPER,
        "quick": replace(_PAPER, starts=4, guesses=20, rounds=1),
        "strong": replace(_PAPER, starts=24, rounds=16),
    },
    accepts=frozenset({ImageSpec, TableSpec}),
)
