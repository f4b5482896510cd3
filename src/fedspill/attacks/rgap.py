"""R-GAP: one example's picture in closed form, layer by layer from the last to the first.

Zhu and Blaschko: "R-GAP: Recursive Gradient Attack on Privacy", ICLR 2021, arXiv:2010.07733. The preset `strong` is the
project's own recursion on any graph (docs/recursion.md), and Gauss-Newton for the picture where layers leave directions
open. Relatives: COPA (arXiv:2111.10178), Chen and Campbell (2210.13231), R-CONV (2406.04227).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.gradients.losses import evidence
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Observed, Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.newton import Newton
from fedspill.inversion.matching.outcome import concluded, preferred
from fedspill.inversion.matching.recursive_reading import read_exactly
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.recursion.chain import read_chain
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.known_activations import below
from fedspill.inversion.recursion.single_head import heads_of_one

BOTH = "each label tried"
"""How a label was found that neither was granted nor shows in the gradient."""
Recursion = Literal["chain", "graph"]


@dataclass(frozen=True)
class RGAP:
    """Reads the last layer's input, solves for each layer's before, and judges by the gradient that the picture has.

    One example in eval mode, its gradient or a single local step. Of several examples the recursion gives a blend, so
    that it is refused where their number is granted. Where one output without a bias leaves two roots, or the label is
    not known, each is carried to the picture, and the one whose gradient is nearest is kept. Converged means that the
    picture's gradient is the observed one, up to `converged_below` of a blank picture's distance.

    Attributes:
        recursion: "chain" as published: convolutions, linear layers and invertible activations, one after the other;
            or the project's own on any "graph".
        balanced: of the chain: give both kinds of constraints one scale. The authors' code stacks them as they are, and
            as derivatives are small, what the outputs say outweighs what the gradient says more exactly.
        steps: of Gauss-Newton for the picture, by what is known where the recursion ends and the gradients of the
            layers below; 0 is the paper's.
        converged_below: share of a blank image's cosine distance of gradients.
    """

    recursion: Recursion = "chain"
    balanced: bool = False
    steps: int = 0
    converged_below: float = 1e-2

    def __post_init__(self) -> None:
        if self.recursion not in ("chain", "graph") or self.steps < 0 or not 0 < self.converged_below <= 1:
            raise BadInput(
                f"recursion={self.recursion!r} must be 'chain' or 'graph', steps={self.steps} 0 or more and"
                f" converged_below={self.converged_below} in (0, 1]"
            )

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The picture of one example.

        Raises:
            NotApplicable: there are several examples or local steps, or the network is not one that the recursion
                takes; says why.
        """
        found = observed_by(update, knowledge)
        count = found.knowledge.num_examples
        if count not in (None, 1):
            raise NotApplicable(f"the recursion reads a single example; the update is the mean of {count}")
        read, refused = list[tuple[Reconstruction, Tensor]](), "no label is known"
        for assumed in _assumptions(found, rng):
            try:
                read += self._read(assumed, rng, watch)
            except NotApplicable as error:
                refused = str(error)
        if not read:
            raise NotApplicable(refused)
        best = preferred([r for r, _ in read], [z for _, z in read], knowledge.model.input)
        guessed = () if count == 1 else ("The number of examples was not granted; one was assumed.",)
        return replace(best, notes=(*found.notes, *best.notes, *guessed))

    def _read(self, assumed: "_Assumed", rng: torch.Generator, watch: Watch) -> list[tuple[Reconstruction, Tensor]]:
        """The pictures for one label, judged, and encoded."""
        if self.recursion == "chain":
            return [assumed.judged(c, self.converged_below) for c in _by_chain(assumed, watch, balanced=self.balanced)]
        reading = read_exactly([assumed.model], self.converged_below, rng, watch)
        found = list[tuple[Reconstruction, Tensor]]()
        if reading.picture is not None and reading.encoded is not None:
            found = [(assumed.named(reading.picture, *reading.notes), reading.encoded)]
        if reading.sure or not self.steps:
            return _or_refused(found, reading.notes)
        try:
            found += [assumed.judged(c, self.converged_below) for c in _by_newton(assumed, Newton(self.steps), watch)]
        except NotApplicable as error:
            return _or_refused(found, (*reading.notes, f"No picture follows: {error}."))
        return found


def _or_refused(
    found: list[tuple[Reconstruction, Tensor]], notes: tuple[str, ...]
) -> list[tuple[Reconstruction, Tensor]]:
    if not found:
        raise NotApplicable(" ".join(notes).rstrip("."))
    return found


NEWTON = (
    "Some layer leaves directions of its input open. By what is known there, and by the gradients of the layers below,"
    " Gauss-Newton went on from a grey picture."
)


@dataclass(frozen=True)
class _Candidate:
    """A picture, encoded, and what to say of it."""

    picture: Tensor
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Assumed:
    """One example with a label.

    Attributes:
        label_method: how the label was found, where the hypothesis does not know it.
    """

    model: ForwardModel
    label_method: str | None = None

    def concluded(self, z: Tensor, level: float) -> Reconstruction:
        """A picture, judged by its gradient."""
        matching = self.model.matching
        return concluded(matching, z.to(matching.model.like), self.model.labels, [self.model.hypothesis], level)

    def judged(self, candidate: _Candidate, level: float) -> tuple[Reconstruction, Tensor]:
        """The same, with what there is to say of it, and the encoded picture."""
        return self.named(self.concluded(candidate.picture, level), *candidate.notes), candidate.picture

    def named(self, found: Reconstruction, *notes: str) -> Reconstruction:
        """With how its label was found, and what else to say."""
        method = self.label_method or found.label_method
        return replace(found, label_method=method, notes=(*found.notes, *notes))


def _assumptions(found: Observed, rng: torch.Generator) -> Iterator[_Assumed]:
    """One for each label that the example may have; granted, else read off the head, else every class."""
    knowledge = found.knowledge
    tried: list[tuple[ServerKnowledge, str | None]] = [(knowledge, None)]
    if knowledge.labels is None and (classes := _unread_classes(knowledge)):
        like = knowledge.model.like
        tried = [(replace(knowledge, labels=torch.tensor([c], device=like.device)), BOTH) for c in range(classes)]
    for knows, method in tried:
        for hypothesis in hypotheses(found.update, knows, Unknowns(examples=(1,)), rng):
            model = ForwardModel.of(hypothesis, knows, found.update, cosine_distance, shorten=True)
            if model.gradient is None or not model.close:
                raise NotApplicable("the update is no single gradient, nor nearly one, of a protocol that is known")
            yield _Assumed(model, method)


def _unread_classes(knowledge: ServerKnowledge) -> int:
    """Two for one output, whose gradient does not tell the label; else 0."""
    loss = evidence(knowledge.model)
    return loss.classes if loss.outputs == 1 else 0


def _by_newton(assumed: _Assumed, newton: Newton, watch: Watch) -> list[_Candidate]:
    """Where the project's recursion ends, the picture by all that is known of the layers below.

    Raises:
        NotApplicable: nothing more can be solved for; says why.
    """
    matching = assumed.model.single_gradient
    model, gradient = matching.model, matching.observed.values
    heads = heads_of_one(model, Dataflow(model), gradient, assumed.model.labels)
    like = model.like.new_empty(1, *model.input.encoded_shape)
    low, high = (model.input.project(torch.full_like(like, end)) for end in (-math.inf, math.inf))
    left = [below(model, gradient, head) for head in heads]
    return [_Candidate(newton.refined(known, (low + high) / 2, watch), (NEWTON,)) for known in left]


def _by_chain(assumed: _Assumed, watch: Watch, *, balanced: bool) -> list[_Candidate]:
    """The published solution, from each input that the last layer may have been given.

    Raises:
        NotApplicable: there is none; says why.
    """
    matching = assumed.model.single_gradient
    flow, gradient = Dataflow(matching.model), matching.observed.values
    heads = heads_of_one(matching.model, flow, gradient, assumed.model.labels)
    found = list[_Candidate]()
    for head in heads:
        reading = read_chain(flow, gradient, head, watch, balanced=balanced)
        roots = f" The last layer's equation has {len(heads)} roots." if len(heads) > 1 else ""
        found.append(_Candidate(reading.picture, (reading.described() + roots,)))
    return found


_PAPER = RGAP()

CARD: Card[Attack] = Card(
    title="R-GAP",
    paper="Zhu & Blaschko, ICLR 2021, arXiv:2010.07733",
    summary="Solves for each layer's input in closed form, from the last layer back to one example's picture.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": replace(_PAPER, recursion="graph", balanced=True),
        "strong": replace(_PAPER, recursion="graph", balanced=True, steps=40),
    },
)
