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
from fedspill.core.types import Batch, ServerRole
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.identity.transparent import Lanes, Relu, linearised
from fedspill.inversion.imprint.certificate import Outlet
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.measurement import Cutoffs
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
class RobbingTheFed:
    """Plants an imprint module (section 3.3).

    Attributes:
        rows: bins of all linear functions together; the paper takes 128 for 64 photographs.
        functions: one group of bins each: "mean", "dct:M", "random" or "own" (A.2).
        own: the vector of "own", as long as the flattened features.
        cutoffs: assumed distribution of a measurement, or "auto": learned from public data as far as there are any,
            else Laplace for cosines and normal for the others.
        at: name of the layer in front of which the module stands; "" is the network's input, or for sentences what
            follows the embedding.
        lanes: "none" leaves the layers before `at` as they are; "three" and "all" make them hand the picture on (4.3,
            flexible placement), see `inversion.linearised`.
        bypass: how these layers' ReLUs let it through: "shift" by their biases, or "remove".
        activation: "relu" bins are differences of rows; "hardtanh" and "two_relus" bins are rows of their own,
            for several local steps (section 4.3).
        connection: "linear" has a second layer of the input's size; "addition" has no further parameter.
        gain: scales the rows; what follows divides by it again. Larger is steadier under local steps (c0, 4.3).
        throughput: by what the mean over the rows is multiplied before it goes on. The paper leaves it open; a
            large one saturates the network, and an example that it gets right sends no gradient.
        ordinary_rows: further random rows that belong to no bin (3.3).
        shuffle: a random order of all rows.
        active_from: before this round the layer holds ordinary random rows only (3.3, dormant).
        decode: "bins" as in the paper, or "peel", for which several functions are needed.
        predict_labels: label what was read by the model's own prediction (A.5); a trained model is needed.
    """

    rows: int = 128
    functions: tuple[str, ...] = ("mean",)
    own: tuple[float, ...] = ()
    cutoffs: Cutoffs | Literal["auto"] = "normal"
    at: str = ""
    lanes: Lanes | Literal["none"] = "none"
    bypass: Relu = "shift"
    activation: Activation = "relu"
    connection: Connection = "linear"
    gain: float = 1.0
    throughput: float = 1.0
    ordinary_rows: int = 0
    shuffle: bool = False
    active_from: int = 0
    decode: Decode = "bins"
    predict_labels: bool = False

    def __post_init__(self) -> None:
        if self.gain <= 0 or self.throughput <= 0 or self.ordinary_rows < 0:
            raise BadInput("gain and throughput must be above 0, ordinary_rows at least 0")

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with the module, and its readout.

        Raises:
            NotApplicable: the place does not exist or does not fit, or cutoffs need public data that are not there.
        """
        if self.lanes != "none":
            model = linearised(model, self.at, lanes=self.lanes, relu=self.bypass)
        place = find_place(model, self._where(model))
        imprint = make_imprint(
            Bins(self.rows, self.functions, self.own, self.cutoffs),
            model,
            place,
            public_data,
            rng,
            ordinary=self.ordinary_rows,
            shuffle=self.shuffle,
            sparse=self.activation != "relu",
            gain=self.gain,
        )
        active = round >= self.active_from
        changed = self._planted(model, place, imprint, rng, active)
        layer = Layer(f"{place.layer}.weight", f"{place.layer}.bias")
        direction = model.like.new_full((place.features,), self.throughput / self.gain / imprint.total)
        outlet = Outlet(place.module, place.module, direction)
        look, own = view_at(model, place.at, transparent=self.lanes != "none"), model if self.predict_labels else None
        return Tampered(changed, ImprintReadout(place.at, layer, imprint, look, self.decode, outlet, active, own))

    def _where(self, model: Model) -> str:
        if self.at or not isinstance(model.input, TokenSpec):
            return self.at
        return behind_embedding(model, probe_inputs(model.input, 2, model.like))

    def _planted(self, model: Model, place: Place, imprint: Imprint, rng: torch.Generator, active: bool) -> Model:
        scale = self.throughput / self.gain
        layer = PlantedLayer(place.features, imprint.total, self.activation, self.connection, self.gain, scale)
        weight, bias = imprint.weight_and_bias(rng, model.like, active=active)
        values = {"first.weight": weight, "first.bias": bias}
        if self.connection == "linear":
            size = scale / imprint.total
            values["second.weight"] = equal_columns(imprint.total, place.features, size, model.like)
            values["second.bias"] = model.like.new_full((place.features,), -size * imprint.typical())
        return planted(model, place, layer, values)


PEEL = ("random", "random", "random", "random")

CARD: Card[Tampering] = Card(
    title="Robbing the Fed",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057",
    summary="Plants rows that sort examples into bins, and reads everyone who is alone in a bin.",
    presets={
        "paper": RobbingTheFed(),
        "quick": RobbingTheFed(cutoffs="auto"),
        "strong": RobbingTheFed(rows=256, functions=PEEL, cutoffs="auto", decode="peel"),
        "mean_laplace": RobbingTheFed(cutoffs="laplace"),
        "dct_laplace": RobbingTheFed(functions=("dct:32",), cutoffs="laplace"),
        "random_normal": RobbingTheFed(functions=("random",)),
        "sparse": RobbingTheFed(activation="hardtanh", cutoffs="auto"),
        "added": RobbingTheFed(connection="addition", cutoffs="auto"),
    },
    reads=True,
    role=ServerRole.MALICIOUS_ARCHITECTURE,
    accepts=frozenset({ImageSpec, TableSpec, TokenSpec}),
)
