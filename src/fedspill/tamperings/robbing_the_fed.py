"""An imprint module: rows that measure one number of the input, in bins, and hand out who is alone in a bin.

Fowl, Geiping, Czaja, Goldblum, Goldstein: "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with
Modified Models", ICLR 2022, arXiv:2110.13057. Several linear functions with peeling are not in the paper.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.settings import Group
from fedspill.core.types import Batch, ServerRole
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.identity.transparent import Lanes, Relu, linearised
from fedspill.inversion.imprint.certificate import Outlet
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.readout import Decode, ImprintReadout
from fedspill.inversion.imprint.rows import Imprint
from fedspill.inversion.imprint.views import view_at
from fedspill.inversion.network.layers import behind_embedding
from fedspill.inversion.network.planting import (
    Activation,
    Connection,
    Place,
    PlantedLayer,
    equal_columns,
    find_place,
    planted,
)
from fedspill.inversion.network.trace import probe_inputs


@dataclass(frozen=True)
class Placement(Group):
    """Where the module stands, and whether what comes before hands the picture on (4.3, flexible placement).

    Attributes:
        at: name of the layer in front of which the module stands; "" is the network's input, or for sentences what
            follows the embedding.
        lanes: "none" leaves the layers before `at` as they are; "three" and "all" make them hand the picture on,
            see `inversion.identity.transparent`.
        bypass: how these layers' ReLUs let it through: "shift" by their biases, or "remove".
    """

    at: str = ""
    lanes: Lanes | Literal["none"] = "none"
    bypass: Relu = "shift"

    @property
    def transparent(self) -> bool:
        """Whether pixels arrive at the module."""
        return self.lanes != "none"

    def prepared(self, model: Model) -> Model:
        """The model with lanes in front of the place, if there are to be any."""
        return model if self.lanes == "none" else linearised(model, self.at, lanes=self.lanes, relu=self.bypass)

    def find(self, model: Model) -> Place:
        """The place in the prepared model."""
        if self.at or not isinstance(model.input, TokenSpec):
            return find_place(model, self.at)
        return find_place(model, behind_embedding(model, probe_inputs(model.input, 2, model.like)))


@dataclass(frozen=True)
class ImprintModule(Group):
    """The planted layers around the bins.

    Attributes:
        activation: "relu" bins are differences of rows; "hardtanh" and "two_relus" bins are rows of their own,
            for several local steps (section 4.3).
        connection: "linear" has a second layer of the input's size; "addition" has no further parameter.
        gain: scales the rows; what follows divides by it again. Larger is steadier under local steps (c0, 4.3).
        throughput: by what the mean over the rows is multiplied before it goes on. The paper leaves it open; a
            large one saturates the network, and an example that it gets right sends no gradient.
        ordinary_rows: further random rows that belong to no bin (3.3).
        shuffle: a random order of all rows.
        active_from: before this round the layer holds ordinary random rows only (3.3, dormant).

    Raises:
        BadInput: a number is out of range.
    """

    activation: Activation = "relu"
    connection: Connection = "linear"
    gain: float = 1.0
    throughput: float = 1.0
    ordinary_rows: int = 0
    shuffle: bool = False
    active_from: int = 0

    def __post_init__(self) -> None:
        if self.gain <= 0 or self.throughput <= 0 or self.ordinary_rows < 0:
            raise BadInput("gain and throughput must be above 0, ordinary_rows at least 0")

    @property
    def scale(self) -> float:
        """The factor of the mean over the planted rows."""
        return self.throughput / self.gain

    def planted(self, model: Model, place: Place, imprint: Imprint, rng: torch.Generator, *, active: bool) -> Model:
        """The model with the module; one that is not `active` holds ordinary rows."""
        layer = PlantedLayer(place.features, imprint.total, self.activation, self.connection, self.gain, self.scale)
        weight, bias = imprint.weight_and_bias(rng, model.like, active=active)
        values = {"first.weight": weight, "first.bias": bias}
        if self.connection == "linear":
            size = self.scale / imprint.total
            values["second.weight"] = equal_columns(imprint.total, place.features, size, model.like)
            values["second.bias"] = model.like.new_full((place.features,), -size * imprint.typical())
        return planted(model, place, layer, values)


@dataclass(frozen=True)
class RobbingTheFed:
    """Plants an imprint module (section 3.3); a plan names the fields of `bins`, `place` and `module` as its own.

    Attributes:
        bins: what is measured, and into which bins it is sorted.
        place: where the module stands.
        module: the layers around the bins.
        decode: "bins" as in the paper, or "peel", for which several functions are needed.
        predict_labels: label what was read by the model's own prediction (A.5); a trained model is needed.
    """

    bins: Bins = Bins()
    place: Placement = Placement()
    module: ImprintModule = ImprintModule()
    decode: Decode = "bins"
    predict_labels: bool = False

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the module, and its readout.

        Raises:
            NotApplicable: the place does not exist or does not fit, or cutoffs need public data that are not there.
        """
        model = self.place.prepared(model)
        place, module = self.place.find(model), self.module
        imprint = make_imprint(
            self.bins,
            model,
            place,
            public_data,
            rng,
            ordinary=module.ordinary_rows,
            shuffle=module.shuffle,
            sparse=module.activation != "relu",
            gain=module.gain,
        )
        active = round >= module.active_from
        changed = module.planted(model, place, imprint, rng, active=active)
        layer = Layer(f"{place.layer}.weight", f"{place.layer}.bias")
        outlet = Outlet(
            place.module, place.module, model.like.new_full((place.features,), module.scale / imprint.total)
        )
        view = view_at(model, place.at, transparent=self.place.transparent)
        classifier = model if self.predict_labels else None
        return Tampered(
            changed, ImprintReadout(place.at, layer, imprint, view, self.decode, outlet, active, classifier)
        )


PEEL = ("random", "random", "random", "random")

CARD: Card[Tampering] = Card(
    title="Robbing the Fed",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057",
    summary="Plants rows that sort examples into bins, and reads everyone who is alone in a bin.",
    presets={
        "paper": RobbingTheFed(),
        "quick": RobbingTheFed(Bins(cutoffs="auto")),
        "strong": RobbingTheFed(Bins(256, PEEL, cutoffs="auto"), decode="peel"),
        "soliton": RobbingTheFed(Bins(256, ("random",), cutoffs="auto", sorting="robust_soliton"), decode="peel"),
        "mean_laplace": RobbingTheFed(Bins(cutoffs="laplace")),
        "dct_laplace": RobbingTheFed(Bins(functions=("dct:32",), cutoffs="laplace")),
        "random_normal": RobbingTheFed(Bins(functions=("random",))),
        "sparse": RobbingTheFed(Bins(cutoffs="auto"), module=ImprintModule(activation="hardtanh")),
        "added": RobbingTheFed(Bins(cutoffs="auto"), module=ImprintModule(connection="addition")),
    },
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
