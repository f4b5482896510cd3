"""Disaggregated inversion: a batch is told apart at the head and read as far as that goes; from there it is searched.

Own method, docs/batches.md: the features, and whatever was read below them, are targets of each example by itself,
beside the gradient of all and a prior. For one example inverting_gradients does this (Zhu and Blaschko 2021, R-GAP,
arXiv:2010.07733, before Geiping et al. 2020, arXiv:2003.14053).
"""

import math
import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, kind
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD
from fedspill.core.rng import split
from fedspill.core.roles import UNWATCHED, Attack, Card, State, Watch
from fedspill.core.settings import with_fields
from fedspill.core.types import Mark, Params, Reconstruction, Update, UpdateKind
from fedspill.core.watching.clock import OutOfTime, left
from fedspill.core.watching.nested import JobsWatch
from fedspill.inversion.analytic.candidates import in_range
from fedspill.inversion.disaggregation.readout import Disaggregated, Effort
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.labels.known import known_labels
from fedspill.inversion.matching.batch_reading import ReadFromHead
from fedspill.inversion.matching.hypotheses import Hypothesis
from fedspill.inversion.matching.known_targets import KnownTargets
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.matching.recursive_reading import READING, Within
from fedspill.inversion.matching.told_apart import ToldApart
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.recursion.batch import BatchReading, proven
from fedspill.inversion.recursion.known_activations import KnownActivations
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.settings import SearchSettings


@dataclass(frozen=True)
class DisaggregatedInversion:
    """Reads what the equations of the head and the recursion below it tell, then searches for the rest.

    Needs what softmax_disaggregation needs: a head that is linear in its features, softmax cross-entropy, a single
    gradient, fewer examples than classes. Converged means that the candidates' gradient is the observed one, or that
    all n examples are certified. A picture that the search finds is certified if it has all the activations that were
    read, and these are more than it has values; else many pictures may fit.

    Attributes:
        search: the optimisation, by Adam or L-BFGS in normalised space.
        tv: weight of the total variation ("vectorial", see inverting_gradients).
        floor: share of a blank picture's distance by which the total variation counts where the targets are met, as
            many pictures meet them; where what was read suffices to determine the pictures it fades instead.
        starts: random starts of one solution of the head's equations.
        guesses: multisets of labels that are tried where none are granted.
        rounds: of a longer look at the head, where no start led to a solution.
        converged_below: share of a blank image's cosine distance of updates below which the search calls itself
            converged.
    """

    search: SearchSettings = SearchSettings(steps=480, lr=0.3, schedule="cosine")
    tv: float = 1.0
    floor: float = 0.06
    starts: int = 12
    guesses: int = 60
    rounds: int = 4
    converged_below: float = 0.1

    def __post_init__(self) -> None:
        if self.starts < 1 or self.guesses < 1 or self.rounds < 0:
            raise BadInput(
                f"starts={self.starts} and guesses={self.guesses} must be 1 or more, rounds={self.rounds} 0 or more"
            )
        if not self.tv >= 0 or not self.floor >= 0:
            raise BadInput(f"tv={self.tv} and floor={self.floor} must be 0 or more")

    def evaluations(self) -> int:
        """How often one run evaluates its objective, at most."""
        return self.search.steps * self.search.rule().evaluations

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The images of the examples that speak.

        Raises:
            NotApplicable: the inputs are no images, the head's equations do not hold or do not apply, the network
                cannot be traced, or there is only one example, whose image they do not tell.
        """
        spec = knowledge.model.input
        if not isinstance(spec, ImageSpec):
            raise NotApplicable(f"disaggregated_inversion searches for images; the model takes {kind(type(spec))}")
        parts, (reading_rng, search_rng) = JobsWatch(watch), split(rng, 2)
        read = self._read_once(update, knowledge, reading_rng, parts)
        if bool(read.sure.all()):
            assert read.reading.pictures is not None, "only pictures are certified"
            return _shown(read, knowledge, read.reading.pictures)
        if len(read.sure) == 1:
            raise NotApplicable(f"{read.told.described()}; a single example is for inverting_gradients to search")
        try:
            found = self._found(read, search_rng, watch, parts)
        except OutOfTime:
            if read.reading.pictures is None:
                raise
            got = _shown(read, knowledge, read.reading.pictures)
            return replace(got, notes=(*got.notes, UNSEARCHED))
        return _judged(read.proven(knowledge, found.variables[0]), knowledge, found, self.converged_below)

    def _found(self, read: "_Read", rng: torch.Generator, watch: Watch, parts: JobsWatch) -> Found:
        """What the search finds.

        Raises:
            OutOfTime: the time was up before anything was evaluated.
        """
        targets = read.targets()
        problem = read.kept(targets.problem(self.tv, self.floor, boxed=self.search.boxed))
        found = self.search.loop(watch).run([problem], rng, parts.watch("search", 0, 1, 1))
        targets.release()
        return found

    def _read_once(self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, parts: JobsWatch) -> "_Read":
        """What a broken run read: a search goes on with the objective that it had."""
        if (state := parts.kept("read")) is not None:
            return _Read.of(state, update, knowledge, rng)
        read = self._read(update, knowledge, rng, parts.watch("read", 0, 1, 1))
        parts.keep("read", {"read": read.state()}, complete=True)
        return read

    def _read(self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch) -> "_Read":
        """What is known before any search, in a share of the time that there is."""
        there_is = left()
        within = watch if math.isinf(there_is) else Within(watch, time.monotonic() + READING * there_is)
        read = ReadFromHead(update, knowledge, Effort(self.starts, self.guesses, self.rounds))
        told = read.told(rng, within)
        if not told.examples.fits:
            raise NotApplicable(f"{told.described()}; the equations do not hold, so that nothing there is a target")
        try:
            below = read.reading(told, rng, within)
        except NotApplicable as error:
            raise NotApplicable(f"{told.described()}; they are no targets of a search: {error}") from None
        found = _Read(told, below, read.gradient(), torch.zeros_like(told.examples.certain))
        return found if below.pictures is None else found.proven(knowledge, below.pictures)


@dataclass(frozen=True)
class _Read:
    """What was read.

    Attributes:
        gradient: the batch's mean one, of all parameters that were sent, in float64.
        sure: of which examples the picture is certified.
    """

    told: ToldApart
    reading: BatchReading
    gradient: Params
    sure: Bool[Tensor, " m"]

    @classmethod
    def of(cls, state: State, update: Update, knowledge: ServerKnowledge, rng: torch.Generator) -> "_Read":
        """From what was kept of it."""
        told = ToldApart(Disaggregated(**state["examples"]), known_labels(update, knowledge, rng, None))
        known = KnownActivations(knowledge.model, state["values"], state["picture"])
        reading = BatchReading(known, state["pictures"], state["certain"], tuple(state["layers"]))
        gradient = mean_gradient(update, knowledge, list(update.values), knowledge.num_examples).values
        return cls(told, reading, gradient, state["sure"])

    def state(self) -> State:
        """What is kept of it."""
        known = self.reading.known
        return {
            "examples": dict(replace(self.told.examples, redrawn=None).__dict__),  # what was redrawn is of no use below
            "values": known.values,
            "picture": known.picture,
            "pictures": self.reading.pictures,
            "certain": self.reading.certain,
            "layers": list(self.reading.layers),
            "sure": self.sure,
        }

    def proven(self, knowledge: ServerKnowledge, z: Float[Tensor, "m ..."]) -> "_Read":
        """With those certified whose pictures have all that was read, where that is more than they have values."""
        valid = torch.tensor([in_range(knowledge.model.input, one.flatten()) for one in z], device=z.device)
        alone = (self.told.examples.copies == 1).to(z.device)
        return replace(self, sure=self.sure.to(z.device) | (proven(self.reading.known, z) & valid & alone))

    def targets(self) -> KnownTargets:
        """What the search's candidates are to have."""
        examples = self.told.examples
        return KnownTargets(self.reading.known, examples.factor * examples.errors, self.gradient)

    def kept(self, problem: Problem) -> Problem:
        """The problem with those pictures held that are certified."""
        pictures, sure = self.reading.pictures, self.sure
        if pictures is None or not bool(sure.any()):
            return problem

        def project(variables: list[Tensor]) -> None:
            problem.project(variables)
            variables[0][..., sure, :, :, :] = pictures[sure].to(variables[0])

        def draw(rng: torch.Generator) -> list[Tensor]:
            drawn = problem.draw(rng)
            project(drawn)
            return drawn

        return replace(problem, draw=draw, project=project)

    def note(self) -> str:
        """How far it was read, for the report."""
        return (
            f"{self.told.described()}. Read from there, layer by layer: {self.reading.described()}."
            f" {int(self.sure.sum())} of them are certified."
        )


def _judged(read: _Read, knowledge: ServerKnowledge, found: Found, level: float) -> Reconstruction:
    """What was found, judged by the loss that the clients have."""
    labels = read.told.examples.labels.to(knowledge.model.like.device)
    observed = Update(UpdateKind.GRADIENT, read.gradient).to(knowledge.model.like)
    training = FedSGD(trainable=tuple(observed.values))
    matching = Matching(knowledge.model, observed, training, 1, cosine_distance)
    tried = [Hypothesis(len(labels), labels, training, "granted")]
    judged = conclude(matching, found.variables[0], labels, found, tried, level)
    shown = _shown(read, knowledge, found.variables[0])
    assert judged.confidence is not None
    trust = judged.confidence.to(shown.inputs)
    notes = (*shown.notes, SEARCHED, *judged.notes)
    return replace(
        shown,
        confidence=trust.where(~read.sure.to(trust.device), 1.0),
        objective=judged.objective,
        converged=judged.converged and read.told.count == len(labels),
        notes=notes,
    )


def _shown(read: _Read, knowledge: ServerKnowledge, z: Float[Tensor, "m ..."]) -> Reconstruction:
    """Candidates with what was read of them."""
    told, spec, like = read.told.examples, knowledge.model.input, knowledge.model.like
    marks: list[Mark] = [_mark(*pair) for pair in zip(read.sure.tolist(), told.copies.tolist(), strict=True)]
    complete = read.told.count == len(told.labels) and knowledge.num_examples is not None
    return Reconstruction(
        inputs=spec.decode(spec.project(z.detach())).to(like),
        labels=told.labels.to(like.device),
        label_method=None if read.told.granted is not None else "equations of the head",
        confidence=read.sure.to(like),
        converged=bool(read.sure.all()) and complete,
        notes=(read.note(), *multiple_note(told.factor)),
        origins=tuple(f"direction {k}" for k in range(len(told.labels))),
        marks=tuple(marks),
    )


def _mark(sure: bool, copies: int) -> Mark:
    return "alone" if sure else "mixture" if copies > 1 else "unsure"


SEARCHED = (
    "Searched from there on: each candidate by what was read of its example, and, where that is not enough, all"
    " together by the gradient."
)

UNSEARCHED = "The budget ended before the search: these have the activations that were read, as nearly as was found."

_PAPER = DisaggregatedInversion()

CARD: Card[Attack] = Card(
    title="Disaggregated inversion",
    paper="fedspill, docs/batches.md",
    summary="Reads a batch at the head and below as far as that goes, then searches each image with what was read.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": with_fields(_PAPER, steps=240, starts=4, guesses=20, rounds=1),
        "strong": with_fields(_PAPER, starts=24, rounds=16),
    },
)
