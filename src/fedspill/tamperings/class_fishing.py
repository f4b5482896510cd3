"""Class fishing: a head by which only the examples of one class send a gradient, however many others the batch holds.

Wen, Geiping, Fowl, Goldblum, Goldstein: "Fishing for User Data in Large-Batch Federated Learning via Gradient
Magnification", ICML 2022, arXiv:2202.00580. docs/fishing.md has what was added and measured.
"""

from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import Head
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, ServerRole, Update
from fedspill.inversion.fishing.counting import easiest, members
from fedspill.inversion.fishing.heads import Bait, bait_of, fished_head, known_features, with_head
from fedspill.inversion.fishing.reading import PAPER_SEARCH, PictureReading
from fedspill.inversion.fishing.readout import FishingReadout
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.search.settings import SearchSettings

ANY = -1
BEYOND = 10.0
"""Times the largest value of the row's logit that was seen, by which the other logits lie above it."""


@dataclass(frozen=True)
class ClassFishing:
    """Sets all rows of the head to 0 but the target's, and the other classes' biases so high that all are sure of them.

    Then p - [y] is 0 along the target's row for every other example, exactly in float32, and -1 for the target's own.
    Where a federation has several rounds, the first update tells how many examples each class has, and the next rounds
    fish for classes with one, in turn. Needs a head with a bias, cross-entropy, and no batch statistics.

    Attributes:
        target: class that is fished for; -1 draws one, and goes by what each round shows.
        multiplier: entries of the target's row (the paper: 0.5).
        varied: draw these from a normal distribution of that deviation. Equal ones give all positions of a layer before
            a flattening the same derivative, from which its input cannot be told. Not in the paper.
        bias: added to the biases of the other classes (the paper: 1000).
        measured: raise `bias` until it is far above what the target's logit reaches on public examples, or on
            inputs without meaning; else a network of large features is sure of the target. Not in the paper.
        reading: how pictures are made of the gradient of those who speak.
        search: where it is not read exactly.
    """

    target: int = ANY
    multiplier: float = 0.5
    varied: bool = False
    bias: float = 1000.0
    measured: bool = False
    reading: PictureReading = PictureReading()
    search: SearchSettings = PAPER_SEARCH

    def __post_init__(self) -> None:
        if self.target < ANY or not self.multiplier > 0 or not self.bias > 0:
            raise BadInput(
                f"target={self.target}, multiplier={self.multiplier}, bias={self.bias}: a class or -1, and two numbers"
                " above 0 are needed"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the head, its readout, and what is fished for next.

        Raises:
            NotApplicable: there is no head with a bias behind cross-entropy, or batch statistics mix the examples.
            BadInput: there is no such class.
        """
        head = fished_head(model)
        weight = model.params[head.weight]
        classes, features = head.rows(weight).shape
        if self.target >= classes:
            raise BadInput(f"target={self.target}: the model has the classes 0 to {classes - 1}")
        row = weight.new_full((features,), self.multiplier)
        if self.varied:
            row = self.multiplier * randn((features,), rng, weight)
        level = self.bias
        if self.measured:
            reached = (known_features(model, head, public_data) @ row.double()).abs().max()
            level = max(level, BEYOND * float(reached))
        target = int(torch.randint(classes, (), generator=rng)) if self.target == ANY else self.target
        return _Cast(self, model, head, row, level, target).tampered()


@dataclass(frozen=True)
class _Cast:
    """One round.

    Attributes:
        model: as it was before the first round; it is sent again with another head.
        row: of the target.
        level: added to the biases of the others.
        fished: targets of earlier rounds.
    """

    fishing: ClassFishing
    model: Model
    head: Head
    row: Tensor
    level: float
    target: int
    fished: frozenset[int] = frozenset()

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The same extractor again, with this round's head."""
        return self.tampered()

    def tampered(self) -> Tampered:
        assert self.head.bias is not None, "fished_head() takes only heads with biases"
        own = self.model.params[self.head.bias]
        biases = own + self.level
        biases[self.target] = own[self.target]
        sent = with_head(self.model, self.head, self.target, self.row, biases)
        bait = bait_of(sent, self.head, self.target, "low")
        what = f"class {self.target}"
        readout = FishingReadout(bait, what, self.fishing.reading, self.fishing.search)
        return Tampered(sent, readout, partial(self._next, bait))

    def _next(self, bait: Bait, update: Update, knowledge: ServerKnowledge) -> Tampering:
        """The class with one example whose turn it is, as far as this round's update tells."""
        name, fished = self.head.bias, self.fished | {self.target}
        if self.fishing.target != ANY or name is None or name not in update.values:
            return self
        biases = mean_gradient(update, knowledge, (name,)).values[name]
        counts = members(biases, bait.silent, knowledge)
        target = (self.target + 1) % len(biases) if counts is None else easiest(counts, fished)
        return replace(self, target=target, fished=fished)


_EXACT = PictureReading(exact=True, tv=0.7, variation="vectorial", relative=True)
_FEW = SearchSettings(steps=240, lr=0.3, schedule="cosine")

CARD: Card[Tampering] = Card(
    title="Class fishing",
    paper="Wen et al., ICML 2022, arXiv:2202.00580",
    summary="Sends a head by which one class alone has a gradient, and rebuilds a picture of it, however large the"
    " batch.",
    presets={
        "paper": ClassFishing(),
        "quick": ClassFishing(varied=True, measured=True, reading=_EXACT, search=_FEW),
        "strong": ClassFishing(varied=True, measured=True, reading=_EXACT, search=replace(_FEW, steps=480)),
    },
    role=ServerRole.MALICIOUS_PARAMETERS,
    reads=True,
    iterative=True,
)
