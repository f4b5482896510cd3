"""Feature fishing: a cutoff along a direction of the features, moved from round to round until one example passes it.

Wen, Geiping, Fowl, Goldblum, Goldstein: "Fishing for User Data in Large-Batch Federated Learning via Gradient
Magnification", ICML 2022, arXiv:2202.00580. docs/fishing.md has what was added and measured.
"""

from dataclasses import dataclass, replace
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.probing.head import Head
from fedspill.core.rng import stream
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Params, ServerRole, Update
from fedspill.inversion.fishing.catching import Catch, caught
from fedspill.inversion.fishing.counting import members, rarest
from fedspill.inversion.fishing.cutoffs import Cutoff, unlike
from fedspill.inversion.fishing.heads import Bait, bait_of, fished_head, known_features, with_head, with_reference
from fedspill.inversion.fishing.reading import PAPER_SEARCH, PictureReading
from fedspill.inversion.fishing.readout import FishingReadout
from fedspill.inversion.gradients.mean import mean_gradient
from fedspill.inversion.search.settings import SearchSettings

ANY = -1
SURE = 1000.0
"""By which a logit lies above the others where all examples are to be sure of its class."""
SHARP = 1e4
"""The logit that one standard deviation of the features along the direction makes: two examples a hundredth of that
apart are told apart, and rounding of their features does not show."""
VARIES = 0.1
"""Standard deviation of features over their own length, where no public examples tell it."""
FAR = 1e3
"""Standard deviations beyond which nobody is."""


@dataclass(frozen=True)
class FeatureFishing:
    """Sets the head to 0 but for one row, a multiple of a direction of the features, with a cutoff in its bias.

    With public examples the first round tries its luck at the cutoff that one example of those expected passes. Without
    them it counts the batch's classes and reads their mean features; then every round moves the cutoff to the mean of
    those who passed the last one, which its update shows. A single update without public examples isolates nobody.

    Attributes:
        anyone: cut the whole batch, whatever its labels, along the row of a class that it lacks (or has least of: then
            a round without anybody is taken off). Not in the paper, which cuts one class, so that examples of other
            classes beyond the cutoff are heard, too: it takes them to be absent.
        target: class that is cut; -1 takes the one with the most examples. Without `anyone`.
        feature: the direction is this feature; -1 takes one of middling size, as large ones are saturated and small
            ones 0 for many examples; with `anyone` -1 draws any direction along which the mean is 0.
        multiplier: of the feature (the paper: 300). Not used with `anyone`, where features are measured.
        expected: examples to cut in the first round, with public examples.
        reading: how pictures are made of the gradient of those who speak.
        search: where it is not read exactly.
    """

    anyone: bool = False
    target: int = ANY
    feature: int = ANY
    multiplier: float = 300.0
    expected: int = 64
    reading: PictureReading = PictureReading()
    search: SearchSettings = PAPER_SEARCH

    def __post_init__(self) -> None:
        if min(self.target, self.feature) < ANY or not self.multiplier > 0 or self.expected < 1:
            raise BadInput(
                f"target={self.target}, feature={self.feature}, multiplier={self.multiplier},"
                f" expected={self.expected}: two numbers or -1, one above 0 and one of at least 1 are needed"
            )

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the head, its readout, and what is done with what it shows.

        Raises:
            NotApplicable: there is no head with a bias behind cross-entropy, or batch statistics mix the examples.
            BadInput: there is no such class or feature.
        """
        head = fished_head(model)
        classes, width = head.rows(model.params[head.weight]).shape
        if self.target >= classes or self.feature >= width:
            raise BadInput(
                f"target={self.target}, feature={self.feature}: the model has {classes} classes and {width} features"
            )
        seed = int(torch.randint(2**31, (), generator=rng))
        place, row = _Place(self, model, head, seed), int(torch.randint(classes, (), generator=rng))
        if public_data is None:
            return _Scouting(place, row).tampered()
        row = row if self.anyone or self.target == ANY else self.target
        return _Cutting(place, row, *place.first_cut(known_features(model, head, public_data)), lucky=True).tampered()


@dataclass(frozen=True)
class _Place:
    """Where and how is fished, in all rounds.

    Attributes:
        model: as it was before the first round; it is sent again with another head.
        seed: of what is drawn.
    """

    fishing: FeatureFishing
    model: Model
    head: Head
    seed: int

    def direction(self, mean: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """Along which features of this mean are cut."""
        chosen = self.fishing.feature
        if self.fishing.anyone and chosen == ANY:
            return unlike(mean, stream(self.seed, "direction"))
        if chosen == ANY:
            chosen = int((mean - mean.mean()).abs().argmin())
        return torch.nn.functional.one_hot(torch.tensor(chosen), len(mean)).to(mean)

    def first_cut(self, features: Float[Tensor, "n d"]) -> tuple[Cutoff, float]:
        """The cutoff that one example of those expected passes, as public ones are spread, and what multiplies it."""
        direction = self.direction(features.mean(0))
        along = features @ direction
        spread = float(along.std(correction=0))
        share = NormalDist().inv_cdf(1 - 1 / max(2, self.fishing.expected)) if self.fishing.expected > 1 else -FAR
        upwards = self.fishing.anyone
        value = float(along.mean()) + (1 if upwards else -1) * share * spread
        return Cutoff(direction, value, spread, upwards), self._gain(spread)

    def cut_at(self, mean: Float[Tensor, " d"]) -> tuple[Cutoff, float]:
        """The cutoff at a mean of features, and what multiplies it."""
        direction = self.direction(mean)
        spread = VARIES * float(mean.norm()) / len(mean) ** 0.5
        return Cutoff(direction, float(direction @ mean), spread, self.fishing.anyone), self._gain(spread)

    def _gain(self, spread: float) -> float:
        return (
            SHARP / max(spread, torch.finfo(torch.float32).tiny ** 0.5)
            if self.fishing.anyone
            else self.fishing.multiplier
        )

    def sent(self, row: int, weight: Float[Tensor, " d"], bias: float, others: float) -> Model:
        """The model with a head of zeros but for one row; the other classes' biases are all alike."""
        assert self.head.bias is not None, "fished_head() takes only heads with biases"
        biases = torch.full_like(self.model.params[self.head.bias], others)
        biases[row] = bias
        return with_head(self.model, self.head, row, weight, biases)

    def readout(self, bait: Bait | None, what: str) -> FishingReadout:
        """What reads the answers."""
        return FishingReadout(bait, what, self.fishing.reading, self.fishing.search)

    def heard(self, update: Update, knowledge: ServerKnowledge) -> Float[Tensor, " k"] | None:
        """The mean gradient of the head's bias, if it was sent."""
        name = self.head.bias
        if name is None or name not in update.values:
            return None
        return mean_gradient(update, knowledge, (name,)).values[name]


@dataclass(frozen=True)
class _Scouting:
    """A round in which every example is sure of one class: all others are heard, and nothing but their features' mean.

    Attributes:
        row: that class.
    """

    place: _Place
    row: int

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model of this round."""
        return self.tampered()

    def tampered(self) -> Tampered:
        zero = self.place.model.like.new_zeros(
            self.place.head.rows(self.place.model.params[self.place.head.weight]).shape[1]
        )
        sent = self.place.sent(self.row, zero, SURE, 0.0)
        return Tampered(
            sent, self.place.readout(None, "this round looked for a cutoff, and the next ones use it"), self.next
        )

    def next(self, update: Update, knowledge: ServerKnowledge) -> Tampering:
        """A cut at the mean, along the row of the class with the fewest, or the most, examples."""
        sent = knowledge.model
        bait = bait_of(sent, self.place.head, self.row, "high")
        catch, biases = caught(bait, update, knowledge), self.place.heard(update, knowledge)
        if catch is None or biases is None:  # all are of that very class, whose members are not heard
            return replace(self, row=(self.row + 1) % len(bait.answer))
        everyone = torch.zeros_like(biases)
        everyone[self.row] = 1.0
        counts = members(biases, everyone, knowledge)
        return (
            self._anyone(catch, counts, biases)
            if self.place.fishing.anyone
            else self._one_class(catch, counts, update, knowledge)
        )

    def _anyone(self, catch: Catch, counts: list[int] | None, biases: Float[Tensor, " k"]) -> Tampering:
        # Of an update of unknown scale: its largest entry of the others is of the class that it has least of.
        quiet = biases.clone()
        quiet[self.row] = -torch.inf
        row = int(quiet.argmax()) if counts is None else rarest(counts)
        few = (0 if float(quiet[row]) >= 0 else 2) if counts is None else counts[row]
        cut = _Cutting(self.place, row, *self.place.cut_at(catch.features))
        return cut if few == 0 else _Reference(cut, alone=few == 1)

    def _one_class(
        self, catch: Catch, counts: list[int] | None, update: Update, knowledge: ServerKnowledge
    ) -> Tampering:
        """The class that is cut, at the mean of its own examples."""
        chosen = self.place.fishing.target
        if chosen == ANY:
            chosen = self.row if counts is None else max(range(len(counts)), key=lambda c: counts[c])
        mean = catch.features
        if chosen != self.row:
            own = caught(bait_of(knowledge.model, self.place.head, chosen, "low"), update, knowledge)
            mean = mean if own is None else own.features
        return _Cutting(self.place, chosen, *self.place.cut_at(mean))


@dataclass(frozen=True)
class _Reference:
    """A round in which nobody passes, for what the row's own members send at any cutoff.

    Attributes:
        cut: of the rounds after it.
        alone: the row's class has one member, which is isolated by this very round.
    """

    cut: "_Cutting"
    alone: bool

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model of this round."""
        place, cut = self.cut.place, self.cut
        bias = -cut.gain * FAR * (abs(cut.cutoff.value) + cut.cutoff.spread * len(cut.cutoff.direction) ** 0.5)
        sent = place.sent(cut.row, cut.gain * cut.cutoff.direction, bias, 0.0)
        bait = bait_of(sent, place.head, cut.row, "low")
        return Tampered(sent, place.readout(bait, f"class {cut.row}"), self.next)

    def next(self, update: Update, knowledge: ServerKnowledge) -> Tampering:
        """The cut, less what this round shows."""
        return (
            self if self.alone else replace(self.cut, reference=mean_gradient(update, knowledge, update.values).values)
        )


@dataclass(frozen=True)
class _Cutting:
    """A round with a cutoff.

    Attributes:
        row: of the head, that is not 0.
        cutoff: along the row.
        gain: that multiplies it.
        reference: of a round in which nobody passed.
        lucky: public examples set the cutoff; the next round looks at the batch itself.
    """

    place: _Place
    row: int
    cutoff: Cutoff
    gain: float
    reference: Params | None = None
    lucky: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model of this round."""
        return self.tampered()

    def tampered(self) -> Tampered:
        sent = self.place.sent(self.row, self.gain * self.cutoff.direction, -self.gain * self.cutoff.value, 0.0)
        return Tampered(sent, self.place.readout(self._bait(sent), "whoever passes the cutoff"), self.next)

    def _bait(self, sent: Model) -> Bait:
        bait = bait_of(sent, self.place.head, self.row, "high" if self.cutoff.upwards else "low")
        return with_reference(bait, self.reference)

    def next(self, update: Update, knowledge: ServerKnowledge) -> Tampering:
        """The next cutoff, or this one again if a single example passed."""
        if self.lucky:
            return _Scouting(self.place, self.row)
        if self.cutoff.done:
            return self
        catch = caught(self._bait(knowledge.model), update, knowledge)
        return replace(self, cutoff=self.cutoff.after(catch))


_EXACT = PictureReading(exact=True, tv=0.7, variation="vectorial", relative=True)
_FEW = SearchSettings(steps=240, lr=0.3, schedule="cosine")

CARD: Card[Tampering] = Card(
    title="Feature fishing",
    paper="Wen et al., ICML 2022, arXiv:2202.00580",
    summary="Sends a head with a cutoff that one example passes, found over several rounds, and rebuilds its picture.",
    presets={
        "paper": FeatureFishing(),
        "quick": FeatureFishing(anyone=True, reading=_EXACT, search=_FEW),
        "strong": FeatureFishing(anyone=True, reading=_EXACT, search=replace(_FEW, steps=480)),
    },
    role=ServerRole.MALICIOUS_PARAMETERS,
    reads=True,
    iterative=True,
)
