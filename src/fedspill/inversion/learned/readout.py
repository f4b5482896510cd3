"""The whole method on one update: simulate, learn, read."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.knowledge import ServerKnowledge, Simulate
from fedspill.core.rng import stream
from fedspill.core.roles import Watch
from fedspill.core.settings import Group
from fedspill.core.types import Batch, Reconstruction, Update
from fedspill.core.watching.clock import OutOfTime
from fedspill.inversion.labels.known import Labels, known_labels
from fedspill.inversion.learned.assignment import exchangeable, ordered
from fedspill.inversion.learned.features import Features, Standardiser
from fedspill.inversion.learned.pairs import LEAST, Pairs, Public, gathered
from fedspill.inversion.learned.training import Learned, Learning, Training

ODD = 1.5
"""Times the largest distance of a held-out update from that of what is read of it: beyond, an update is unexplained."""
CHECKED = 32
"""Held-out updates of which that is measured."""


@dataclass(frozen=True)
class Simulation(Group):
    """What a network is trained on.

    Attributes:
        pairs: simulated updates, at most; fewer where that is more than ten views of each public example.
        features: numbers to which an update is hashed; a smaller one is taken as it is.
        reads: give the network the inputs of linear layers, as closed forms read them, besides.
        mirror: mirror half of the public images, drawn anew for each update.
        labels: "private" gives simulated clients the labels that were granted (or, of one example, inferred), so that
            one network answers one update; "public" leaves public examples their own, as in the paper.

    Raises:
        BadInput: a number is out of range.
    """

    pairs: int = 50_000
    features: int = 4096
    reads: bool = False
    mirror: bool = False
    labels: Literal["private", "public"] = "public"

    def __post_init__(self) -> None:
        if self.pairs < LEAST or self.features < 1:
            raise BadInput(f"pairs={self.pairs}, features={self.features}: at least {LEAST} and 1 are needed")


@dataclass(frozen=True)
class Inversion:
    """A learned inversion, ready to read updates.

    Attributes:
        features: of an update, before they are standardised.
        standardised: by public updates.
        learned: what came of the training.
        pairs: updates that it learned from.
        held_out: what it was judged by.
        mean: of the encoded public examples, flat.
        labels: of the examples that it gives, in their order; None where they are not known.
        assumed: labels with which what is read can be simulated again; None where they are not known.
        source: of the public examples.
        complete: False where the budget ended before the training did.
    """

    features: Features
    standardised: Standardiser
    learned: Learned
    pairs: int
    held_out: Pairs
    mean: Float[Tensor, " d"]
    labels: Labels | None
    assumed: Tensor | None
    source: Public
    complete: bool

    def read(self, update: Update) -> Float[Tensor, "n d"]:
        """The encoded examples of one update, flat."""
        with torch.no_grad():
            return self.learned.network(self.row(update))[0]

    def row(self, update: Update) -> Float[Tensor, "1 f"]:
        """Of standardised features."""
        return self.standardised(self.features(update)[None])

    def held_out_read(self) -> tuple[Float[Tensor, "m d"], Float[Tensor, "m d"]]:
        """What it reads of held-out examples, and these, encoded and flat."""
        count = self.held_out.targets.shape[1]
        with torch.no_grad():
            made = self.learned.network(self.held_out.features)
            may = exchangeable(None if self.labels is None else self.labels.values, count)
            return made.flatten(0, 1), ordered(made, self.held_out.targets, may).flatten(0, 1)


def learn(
    update: Update,
    knowledge: ServerKnowledge,
    simulation: Simulation,
    learning: Learning,
    rng: torch.Generator,
    watch: Watch,
) -> Inversion:
    """An inversion of updates like this one, of which only the shapes, and the labels where asked for, are looked at.

    Raises:
        NotApplicable: the server cannot simulate its clients, or holds too few public examples.
        OutOfTime: the time was up before there was anything to read with.
    """
    simulate, public, count = _means(knowledge)
    seed = int(torch.randint(2**31, (), generator=rng))
    told = _labels(update, knowledge, count, rng)
    labels = told if simulation.labels == "private" else None
    values, spec = None if labels is None else labels.values, knowledge.model.input
    source = Public.of(public, count, spec, seed, labels=values, mirror=simulation.mirror)
    features = Features.of(update, simulation.features, seed, reads=simulation.reads)
    most, held = source.most(simulation.pairs), source.most_held(simulation.pairs)

    def made(number: int, before: int, *, held_out: bool) -> Pairs:
        def ended(done: int) -> bool:
            watch.progress(before + done, held + most, 1.0)
            return watch.out_of_time()

        return gathered(source.updates(simulate, held_out=held_out), number, spec, features, ended)

    aside, own = made(held, 0, held_out=True), made(most, held, held_out=False)
    whole = len(own) == most
    if not whole and (not learning.linear or len(own) < LEAST):
        raise OutOfTime
    standardised = Standardiser.of(own.features)
    pairs, held_out = (Pairs(standardised(p.features), p.targets) for p in (own, aside))
    training = Training(learning, pairs, held_out, exchangeable(values, count), features.read, seed, held + most)
    learned = training.run(watch)
    mean, complete = pairs.targets.mean((0, 1)), whole and training.is_over
    assumed = told.values if told is not None and (labels is not None or count == 1) else None
    return Inversion(features, standardised, learned, len(pairs), held_out, mean, labels, assumed, source, complete)


def _means(knowledge: ServerKnowledge) -> tuple[Simulate, Batch, int]:
    simulate, public, count = knowledge.simulate, knowledge.public_data, knowledge.num_examples
    count = len(knowledge.labels) if count is None and knowledge.labels is not None else count
    if public is None or count is None or knowledge.local_training is None:
        raise NotApplicable(
            "a learned inversion is trained on updates of public examples: grant public_data, num_examples and"
            " local_training"
        )
    if simulate is None:
        raise NotApplicable(
            "the clients cannot be simulated: one of their defences attacks every update, or each receives another"
            " model, or the update was captured or isolated"
        )
    return simulate, public, count


def _labels(update: Update, knowledge: ServerKnowledge, count: int, rng: torch.Generator) -> Labels | None:
    """Granted labels; inferred ones of a single example, as a wrong one among several would spoil all pairs."""
    if knowledge.labels is not None:
        return Labels(knowledge.labels, None)
    return known_labels(update, knowledge, rng, count) if count == 1 else None


def concluded(
    inversion: Inversion, update: Update, knowledge: ServerKnowledge, converged_below: float
) -> Reconstruction:
    """What is read of the update, with what is known of how well such updates are read.

    Args:
        converged_below: share of the error of the public mean, on held-out examples, below which it calls itself
            converged.
    """
    spec, labels, curve = knowledge.model.input, inversion.labels, inversion.learned.curve
    z = inversion.read(update).to(knowledge.model.like).view(-1, *spec.encoded_shape)
    inputs = spec.decode(spec.project(z))
    explained = _explains(inversion, update, inputs, knowledge)
    return Reconstruction(
        inputs=inputs,
        labels=None if labels is None else labels.values,
        label_method=None if labels is None else labels.method,
        objective=curve,
        converged=curve[-1] < converged_below and explained is True,
        notes=_notes(inversion, spec, explained),
    )


def _explains(inversion: Inversion, update: Update, inputs: Tensor, knowledge: ServerKnowledge) -> bool | None:
    """Whether an update that is simulated of what was read is about as near to the observed one as is usual.

    None where that takes labels which are not known.
    """
    simulate, spec, assumed = knowledge.simulate, knowledge.model.input, inversion.assumed
    if assumed is None or simulate is None:
        return None

    def apart(batch: Batch, row: Float[Tensor, "1 f"], number: int) -> float:
        again = simulate(batch, stream(inversion.source.seed, "again", number))
        return torch.inf if again is None else float((inversion.row(again) - row).square().mean().sqrt())

    usual, rows = list[float](), inversion.held_out.features[:CHECKED]
    for number, (row, batch) in enumerate(zip(rows, inversion.source.batches(held_out=True), strict=False)):
        with torch.no_grad():
            z = inversion.learned.network(row[None])[0].to(inputs).view(-1, *spec.encoded_shape)
        usual.append(apart(Batch(spec.decode(spec.project(z)), batch.labels), row[None], number + 1))
    return apart(Batch(inputs, assumed), inversion.row(update), 0) <= ODD * max(usual)


def _notes(inversion: Inversion, spec: InputSpec, explained: bool | None) -> tuple[str, ...]:
    made, targets = inversion.held_out_read()
    means = inversion.mean.expand_as(made)
    read, guess = (_closeness(z, targets, spec) for z in (made, means))
    notes = [
        f"Learned from {inversion.pairs:,} simulated updates of public examples in"
        f" {max(0, len(inversion.learned.curve) - 2)} epochs; {len(inversion.held_out):,} updates of public examples"
        f" held out are read at {read}, the mean of the others scores {guess} there.",
        "What the update does not tell is made up in the likeness of public examples: resemblance alone is no leak; and"
        " private examples that resemble the public ones less are read worse than those held out.",
    ]
    if inversion.learned.curve[-1] >= 1:
        notes.append("Nothing was learned that beats the mean of the public examples, which is what is returned.")
    if explained is False:
        notes.append(
            "The update that is simulated of what was read is further from the observed one than is usual of held-out"
            " public examples: what was learned does not hold of this update."
        )
    if explained is None:
        notes.append("Whether what was read explains the update was not tried, for want of labels.")
    if not inversion.complete:
        notes.append("The budget ended before the training did; the best state until then has read.")
    return tuple(notes)


def _closeness(made: Float[Tensor, "m d"], targets: Float[Tensor, "m d"], spec: InputSpec) -> str:
    """Mean PSNR of images, of other data the mean squared error of encoded examples, in words."""
    if not isinstance(spec, ImageSpec):
        return f"a mean squared error of {float((made - targets).square().mean()):.3g}"
    low, high = spec.bounds
    shown, wanted = (spec.decode(z.view(-1, *spec.shape)).flatten(1) for z in (made, targets))
    errors = (shown - wanted).square().mean(1).clamp_min(1e-20) / (high - low) ** 2
    return f"{float(-10 * errors.log10().mean()):.1f} dB"
