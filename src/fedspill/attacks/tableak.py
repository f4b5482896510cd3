"""TabLeak: rows of tables by gradient matching, with relaxed categories and many searches that vote.

Vero, Balunović, Dimitrov, Vechev: "TabLeak: Tabular Data Leakage in Federated Learning", ICML 2023, arXiv:2210.01785.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TableSpec, kind
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.rng import rand
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.matching.forward_model import ForwardModel
from fedspill.inversion.matching.hypotheses import Hypothesis, Unknowns, hypotheses, observed_by
from fedspill.inversion.matching.outcome import conclude
from fedspill.inversion.objective.distances import DISTANCES, DistanceName
from fedspill.inversion.search.problem import Found, Problem
from fedspill.inversion.search.sequential import Search
from fedspill.inversion.search.step_rules import SignedAdam
from fedspill.inversion.tables.ensemble import aligned, certainty, pooled
from fedspill.inversion.tables.relaxation import Relaxation, probabilities


@dataclass(frozen=True)
class TabLeak:
    """Searches `restarts` times at once, puts what was found into one order, and pools it.

    A row's confidence is the mean certainty of its cells (the entropy of a category, the spread of a number over the
    searches), times the share of a blank row's distance that the best search removed. Converged is said of the rows as
    they are put out, whole numbers and single categories: that their own update is the observed one.

    Attributes:
        steps: iterations of every search.
        restarts: searches, all at once; the paper's 30.
        lr: Adam's step, constant.
        signed: give Adam the sign of the gradient.
        relaxed: categories are the softmax of free numbers.
        bounded: numbers lie inside their column's bounds, by a sigmoid.
        temperature: of the softmax.
        distance: "cosine" (the paper), or "squared".
        unknowns: how to guess what the server was not granted.
        converged_below: share of a blank row's cosine distance of updates below which the rows count as converged.
    """

    steps: int = 1500
    restarts: int = 30
    lr: float = 0.06
    signed: bool = True
    relaxed: bool = True
    bounded: bool = True
    temperature: float = 1.0
    distance: DistanceName = "cosine"
    unknowns: Unknowns = Unknowns()
    converged_below: float = 1e-2

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise BadInput(f"steps={self.steps}, restarts={self.restarts}: both must be at least 1")
        if not self.lr > 0 or not self.temperature > 0:
            raise BadInput(f"lr={self.lr}, temperature={self.temperature}: both must be above 0")

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """Rows whose update points where the observed one does, as the searches agree on them.

        Raises:
            NotApplicable: the inputs are no rows of a table, or the update holds nothing to match.
        """
        spec = knowledge.model.input
        if not isinstance(spec, TableSpec):
            raise NotApplicable(f"tableak searches for rows of tables; the model takes {kind(type(spec))}")
        found = observed_by(update, knowledge)
        tried = hypotheses(found.update, found.knowledge, self.unknowns, rng, notes=found.notes)
        distance = DISTANCES[self.distance]
        assumed = [ForwardModel.of(h, found.knowledge, found.update, distance, shorten=False) for h in tried]
        relax = Relaxation(spec, self.relaxed, self.bounded, self.temperature)
        search = Search(SignedAdam(self.lr, self.signed, decay_at=()), self.steps)
        result = search.run([self._problem(a, relax) for a in assumed], rng, watch)
        return _voted(assumed[result.problem], relax, result, tried, self.converged_below)

    def _problem(self, assumed: ForwardModel, relax: Relaxation) -> Problem:
        """All searches as one: the sum of their distances falls with each of them, and signed steps do not mix them."""
        count, like = assumed.hypothesis.num_examples, assumed.matching.model.like

        def draw(rng: torch.Generator) -> list[Tensor]:
            return [2 * rand((self.restarts, count, *relax.spec.encoded_shape), rng, like) - 1]

        def value(variables: list[Tensor]) -> Float[Tensor, ""]:
            return assumed.matching.each(relax(variables[0]), assumed.labels).mean()

        def project(variables: list[Tensor]) -> None:
            """The relaxation keeps rows inside their bounds."""

        return Problem(draw, value, project)


def _nearest(assumed: ForwardModel, members: Float[Tensor, "r n features"]) -> int:
    """The member with the lowest distance; NaN is none."""
    with torch.no_grad():
        distances = assumed.matching.each(members, assumed.labels)
    return int(distances.nan_to_num(torch.inf).argmin())


def _voted(
    assumed: ForwardModel, relax: Relaxation, result: Found, tried: list[Hypothesis], level: float
) -> Reconstruction:
    """The pooled rows, which are judged as they are put out."""
    spec, labels = relax.spec, assumed.labels
    members = probabilities(spec, relax(result.variables[0]).detach())
    best = _nearest(assumed, members)
    classes = labels if labels.ndim == 1 and not labels.is_floating_point() else None
    ordered = aligned(spec, members, best, classes)
    rows = spec.decode(spec.project(pooled(ordered)))
    judged = conclude(assumed.matching, spec.encode(rows), labels, result, tried, level)
    alone = conclude(assumed.matching, members[best], labels, result, tried, level)
    sure = certainty(spec, ordered).mean(1)
    trust = torch.ones_like(sure) if alone.confidence is None else alone.confidence.to(sure)
    note = (
        f"{len(members)} searches end at distance {result.value:.1e} on average and agree on rows by"
        f" {float(sure.mean()):.2f} of 1. Confidence is this agreement, no certificate."
    )
    return replace(judged, inputs=rows, confidence=(sure * trust).clamp(0, 1), notes=(*judged.notes, note))


_PAPER = TabLeak()

CARD: Card[Attack] = Card(
    title="TabLeak",
    paper="Vero et al., ICML 2023, arXiv:2210.01785",
    summary="Searches for rows of tables: categories relaxed by a softmax, 30 searches at once that vote.",
    iterative=True,
    presets={
        "paper": _PAPER,
        "quick": replace(_PAPER, steps=300, restarts=10),
        "strong": _PAPER,
        "no_pooling": replace(_PAPER, restarts=1),
        "no_softmax": replace(_PAPER, relaxed=False),
        "inverting_gradients": replace(_PAPER, restarts=1, relaxed=False, bounded=False),
    },
    accepts=frozenset({TableSpec}),
)
