"""An imprint in a linear layer that the network has: parameters only, the architecture stays as it is.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, sections 3.3 and 4.3 ("the attacker only needs to modify
parameters of an existing model"). ARES (Gong et al. 2026, arXiv:2603.17623) brings bins into an unchanged architecture
in another way, by sparse recovery of activations.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, ServerRole
from fedspill.inversion.imprint.linear_pair import EACH, linear_pair
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.measurement import Cutoffs
from fedspill.inversion.imprint.readout import Decode, ImprintReadout
from fedspill.inversion.imprint.soliton import Sorting
from fedspill.inversion.imprint.views import view_at
from fedspill.inversion.network.planting import find_place


@dataclass(frozen=True)
class RobbingLinearLayer:
    """Writes bins into the first linear layer, and equal columns into the one behind it.

    Attributes:
        at: name of the linear layer; "" is the first one.
        rows: bins of all linear functions together; None takes all rows. The others stay ordinary rows.
        functions: see `robbing_the_fed`.
        own: see `robbing_the_fed`.
        cutoffs: see `robbing_the_fed`.
        throughput: see `robbing_the_fed`.
        shuffle: spread the bins over the layer's rows in a random order.
        active_from: before this round the layer stays as it is.
        decode: "bins" or "peel".
        predict_labels: see `robbing_the_fed`.
        sorting: see `robbing_the_fed`.
        expected: see `robbing_the_fed`.
    """

    at: str = ""
    rows: int | None = None
    functions: tuple[str, ...] = ("mean",)
    own: tuple[float, ...] = ()
    cutoffs: Cutoffs | Literal["auto"] = "normal"
    throughput: float = 1.0
    shuffle: bool = False
    active_from: int = 0
    decode: Decode = "bins"
    predict_labels: bool = False
    sorting: Sorting = "bins"
    expected: int = 64

    def __post_init__(self) -> None:
        if self.throughput <= 0:
            raise BadInput(f"throughput={self.throughput} must be above 0")
        self._wanted()

    def _wanted(self) -> Bins:
        rows = EACH * len(self.functions) if self.rows is None else self.rows
        return Bins(rows, self.functions, self.own, self.cutoffs, self.sorting, self.expected)

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with other numbers in two layers, and the readout.

        Raises:
            NotApplicable: there is no linear layer, followed by a ReLU and another one, that shows the input.
        """
        pair = linear_pair(model, self.at)
        at = pair.first.name
        place, bins = find_place(model, at), pair.bins(self.rows, self._wanted())
        ordinary = pair.rows - bins.rows
        imprint = make_imprint(bins, model, place, public_data, rng, ordinary=ordinary, shuffle=self.shuffle)
        active = round >= self.active_from
        changed, outlet = pair.written(model, imprint, self.throughput, rng, active=active)
        look, classifier = view_at(model, at), model if self.predict_labels else None
        return Tampered(changed, ImprintReadout(at, pair.layer, imprint, look, self.decode, outlet, active, classifier))


CARD: Card[Tampering] = Card(
    title="Robbing the Fed, in a linear layer",
    paper="Fowl et al., ICLR 2022, arXiv:2110.13057, section 3.3",
    summary="Writes imprint rows into a linear layer of the network; no parameter is added.",
    presets={
        "paper": RobbingLinearLayer(),
        "quick": RobbingLinearLayer(cutoffs="auto"),
        "strong": RobbingLinearLayer(functions=("random", "random", "random", "random"), cutoffs="auto", decode="peel"),
    },
    reads=True,
    role=ServerRole.MALICIOUS_PARAMETERS,
    accepts=frozenset({ImageSpec, TableSpec}),
)
