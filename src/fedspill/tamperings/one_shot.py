"""One bin that one example of a huge aggregate is expected to fall into; the server fishes over many updates.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, section 4.2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Prediction, Tampered, Tampering, Watch
from fedspill.core.types import Batch, Reconstruction, ServerRole, Update
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.imprint.bin_readout import SURE, read_group
from fedspill.inversion.imprint.contents import contents
from fedspill.inversion.imprint.making import public_features
from fedspill.inversion.imprint.measurement import LEAST_PUBLIC, check_function, edges, vector
from fedspill.inversion.imprint.rows import Imprint, arranged
from fedspill.inversion.imprint.views import View, view_at
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.planting import PlantedLayer, equal_columns, find_place, planted
from fedspill.inversion.theory.occupancy import one_shot_chance

WINDOW = 200
"""Public examples over which the density at the bin is averaged."""
FINE = 4096
"""Intervals of equal mass from which the bin is cut where no public examples tell of its surroundings."""


@dataclass(frozen=True)
class OneShot:
    """Plants two rows, whose difference is a bin of mass 1/n: the size that is best for n examples.

    The chance that exactly one example falls into it is (1 - 1/n)^(n-1), about 0.37 for every n (the paper's "once in
    four" counts occupancy patterns as equally likely).

    Attributes:
        expected: n, examples that the server expects in one aggregate.
        function: linear function, see `measurement.vector`.
        quantile: where the bin begins; in the middle its mass is known best.
        sparse: one row that is active inside the bin only (Hardtanh) instead of two ReLU rows. Then nothing of the
            thousands of other examples has to cancel out; not in the paper.
    """

    expected: int = 64
    function: str = "mean"
    quantile: float = 0.5
    sparse: bool = False

    def __post_init__(self) -> None:
        if self.expected < 1 or not 0 < self.quantile < 1:
            raise BadInput(f"expected={self.expected}, quantile={self.quantile}: at least 1, and between 0 and 1")
        check_function(self.function)

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the bin in front, and its readout."""
        place = find_place(model, "")
        measured = vector(self.function, place.features, rng)
        public = public_features(model, place, public_data)
        ends = self.ends(None if public is None else public @ measured)
        if not self.sparse:
            beyond = edges("normal", 1, None)[-1] * 1e3 + ends[-1].abs()
            ends = torch.cat([ends, beyond[None]])
        imprint = arranged(measured[None], [ends], 0, None, sparse=self.sparse)
        weight, bias = imprint.weight_and_bias(rng, model.like)
        activation = "hardtanh" if self.sparse else "relu"
        layer = PlantedLayer(place.features, imprint.total, activation, "linear")
        values = {
            "first.weight": weight,
            "first.bias": bias,
            "second.weight": equal_columns(imprint.total, place.features, 1 / imprint.total, model.like),
            "second.bias": model.like.new_zeros(place.features),
        }
        names = Layer(f"{place.layer}.weight", f"{place.layer}.bias")
        readout = OneShotReadout(names, imprint, view_at(model, ""), self.expected)
        return Tampered(planted(model, place, layer, values), readout)

    def ends(self, answers: Tensor | None) -> Tensor:
        """Both ends of the bin, (2,) float64; from public measurements, or for a normal distribution.

        The spacing of single public examples would make the mass a lottery, so the density is that of a window.
        """
        mass = 1.0 / self.expected
        if answers is None or len(answers) < LEAST_PUBLIC:
            fine = edges("normal", FINE, None)
            low = fine[round(self.quantile * FINE)]
            density = (1 / FINE) / float(fine[round(self.quantile * FINE) + 1] - low)
            return torch.stack([low, low + mass / density])
        share = min(0.5, max(mass, WINDOW / len(answers)))
        around = torch.tensor([self.quantile - share / 2, self.quantile + share / 2]).clamp(0, 1).double()
        low, high = answers.double().quantile(around)
        if not float(high) > float(low):
            raise NotApplicable("public examples do not differ in what is measured, so no bin can be cut")
        start = answers.double().quantile(self.quantile)
        return torch.stack([start, start + (high - low) * mass / share])


@dataclass(frozen=True)
class OneShotReadout:
    """Reads the one bin.

    Attributes:
        layer: the planted layer.
        imprint: the bin, and for ReLU rows what lies above it.
        look: what examples look like.
        planned: examples that the bin was cut for.
    """

    layer: Layer
    imprint: Imprint
    look: View
    planned: int

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """One candidate, or none if the bin is empty."""
        held = contents(update, knowledge, self.layer, self.imprint)[0]
        only = torch.zeros_like(held.bias, dtype=torch.bool)
        only[0] = True
        readings = read_group(held, self.imprint, 0, self.look.codebook, only)
        n = knowledge.num_examples or self.planned
        chance = one_shot_chance(n, 1 / self.planned)
        notes = [f"A bin of mass 1/{self.planned} holds exactly one of {n} examples with a chance of {chance:.3f}."]
        if not len(readings):
            notes.append("This time it is empty; a server would try its luck with the next update.")
        return Reconstruction(
            inputs=self.look.inputs(readings.features).to(knowledge.model.like),
            confidence=readings.confidence.to(knowledge.model.like),
            converged=bool((readings.confidence >= SURE).any()),
            notes=tuple(notes),
            origins=("the bin",) * len(readings),
            marks=readings.marks,
        )

    def predict(self, model: Model, z: Tensor) -> Prediction:
        """Who falls into the bin, and whether one does so alone."""
        inside = self.imprint.bins(layer_inputs(model, "", z).flatten(1))[:, 0].cpu() == 0
        places = tuple(("the bin",) if i else () for i in inside.tolist())
        return Prediction(places, inside if int(inside.sum()) == 1 else torch.zeros_like(inside))


CARD: Card[Tampering] = Card(
    title="Robbing the Fed, one shot",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, section 4.2",
    summary="Plants one bin, sized so that one example of a huge aggregate falls into it, and reads that one.",
    presets={"paper": OneShot(), "quick": OneShot(), "strong": OneShot(sparse=True)},
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec}),
)
