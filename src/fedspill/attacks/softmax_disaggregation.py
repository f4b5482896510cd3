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
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.inversion.disaggregation.fully_connected import Descended, certified, descend
from fedspill.inversion.disaggregation.local_steps.readout import Head, Trained, check_followed, read_local_steps
from fedspill.inversion.disaggregation.readout import Disaggregated, Effort
from fedspill.inversion.gradients.head import head_gradient
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.labels.known import Labels, known_labels
from fedspill.inversion.matching.batch_reading import ReadFromHead
from fedspill.inversion.matching.told_apart import HeadEquations, ToldApart, clock_of
from fedspill.inversion.network.dense import Dense, dense_layers
from fedspill.inversion.network.trace import trace


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
            return self._of_local_steps(update, knowledge, rng, clock_of(watch))
        read = ReadFromHead(update, knowledge, Effort(self.starts, self.guesses, self.rounds))
        apart = read.told(rng, watch)
        told, labels = apart.examples, apart.granted
        try:
            layers = dense_layers(trace(knowledge.model))
        except NotApplicable:
            return _through_other_layers(read, apart, rng, watch)
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
        head = HeadEquations.of(head_gradient(update, knowledge, count), update, knowledge)
        labels = known_labels(update, knowledge, rng, count)
        if labels is None:
            raise NotApplicable("several local steps are followed where labels were granted or can be inferred")
        values = labels.values.to(head.rows.device)
        few, tries = max(1, self.guesses // 10), max(1, self.rounds // 2)
        trained = read_local_steps(
            layers, update, knowledge, _middle(head), values, rng, is_up, guesses=few, attempts=tries
        )
        return _behind_steps(trained, labels, knowledge)


def _middle(head: HeadEquations) -> Head:
    """It without what belongs to a single gradient."""
    return Head(head.rows, head.weight, head.bias, head.non_negative, head.errors)


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


def _through_other_layers(read: ReadFromHead, apart: ToldApart, rng: torch.Generator, watch: Watch) -> Reconstruction:
    """Pictures from features through convolutions: by the shift structure of their patches, then layer by layer.

    Raises:
        NotApplicable: no layer below the head was read.
    """
    told, said, knowledge = apart.examples, apart.described(), read.knowledge
    try:
        reading = read.reading(apart, rng, watch)
    except NotApplicable as error:
        raise NotApplicable(f"{said}; images need another attack: {error}") from None
    if reading.pictures is None:
        raise NotApplicable(
            f"{said}. Read from there, layer by layer: {reading.described()}. That determines no image, and"
            " disaggregated_inversion searches on"
        )
    z = reading.pictures
    sure = (reading.certain & (told.copies.to(z.device) == 1) & told.fits) & _in_range(knowledge.model, z)
    note = f"{said}. Read from there, layer by layer: {reading.described()}. {int(sure.sum())} of them are certified."
    return _shown(z, sure, told, apart.granted, knowledge, note)


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
