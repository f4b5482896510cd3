"""An imprint in a linear layer that the network has: parameters only, the architecture stays as it is.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, sections 3.3 and 4.3 ("the attacker only needs to modify
parameters of an existing model"). ARES (Gong et al. 2026, arXiv:2603.17623) brings bins into an unchanged architecture
in another way, by sparse recovery of activations.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.core.roles import UNWATCHED, Card, Tampered, Tampering, Watch
from fedspill.core.types import Batch, ServerRole
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.imprint.certificate import Outlet
from fedspill.inversion.imprint.making import Bins, make_imprint
from fedspill.inversion.imprint.measurement import Cutoffs
from fedspill.inversion.imprint.readout import Decode, ImprintReadout
from fedspill.inversion.imprint.rows import Imprint
from fedspill.inversion.imprint.soliton import Sorting
from fedspill.inversion.imprint.views import view_at
from fedspill.inversion.network.planting import find_place
from fedspill.inversion.network.trace import Step, trace

EACH = 2
"""Rows of one function at least."""


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
        self._bins(2 * len(self.functions) if self.rows is None else self.rows)

    def _bins(self, rows: int) -> Bins:
        return Bins(rows, self.functions, self.own, self.cutoffs, self.sorting, self.expected)

    def _bins_for(self, layer: Step) -> Bins:
        """All of a narrow layer's rows measure fewer functions, as each needs two."""
        total = layer.output_shape[-1]
        if self.rows is not None and self.rows <= total:
            return self._bins(self.rows)
        if self.rows is not None or total < EACH:
            raise NotApplicable(f"rows={self.rows or EACH}, but {layer.describe()} has {total}")
        return replace(self, rows=total, functions=self.functions[: total // EACH])._bins(total)

    def tamper(
        self, model: Model, public_data: Batch | None, round: int, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Tampered:
        """The model with other numbers in two layers, and the readout.

        Raises:
            NotApplicable: there is no linear layer, followed by a ReLU and another one, that shows the input.
        """
        first, second = _pair(model, self.at)
        place, bins = find_place(model, first.name), self._bins_for(first)
        ordinary = first.output_shape[-1] - bins.rows
        imprint = make_imprint(bins, model, place, public_data, rng, ordinary=ordinary, shuffle=self.shuffle)
        layer = Layer(*_names(first))
        active = round >= self.active_from
        # One column for all bins. Its signs differ: equal ones would shift all logits alike, which a softmax ignores.
        column = randn((second.output_shape[-1],), rng, model.like) * (self.throughput / bins.rows)
        changed = _written(model, imprint, layer, Layer(*_names(second)), column, rng) if active else model
        outlet = Outlet(first.name, second.name, column)
        look, classifier = view_at(model, first.name), model if self.predict_labels else None
        return Tampered(
            changed, ImprintReadout(first.name, layer, imprint, look, self.decode, outlet, active, classifier)
        )


def _names(step: Step) -> tuple[str, str]:
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if weight is None or bias is None:
        raise NotApplicable(f"{step.describe()} has no bias, by whose gradient the readout divides")
    return weight, bias


def _pair(model: Model, at: str) -> tuple[Step, Step]:
    """The linear layer, and the one that follows behind a ReLU."""
    steps = [s for s in trace(model).steps if not s.passes()]
    linear = [i for i, s in enumerate(steps) if isinstance(s.module, nn.Linear) and at in ("", s.name)]
    if not linear:
        raise NotApplicable(f"the network has no linear layer {at!r}" if at else "the network has no linear layer")
    first, after = steps[linear[0]], steps[linear[0] + 1 : linear[0] + 3]
    kinds = [type(s.module) for s in after]
    if kinds != [nn.ReLU, nn.Linear] or not all(s.linked for s in after):
        raise NotApplicable(f"{first.describe()} is not followed by a ReLU and another linear layer")
    return first, after[1]


def _written(
    model: Model, imprint: Imprint, first: Layer, second: Layer, column: Tensor, rng: torch.Generator
) -> Model:
    params = dict(model.params)
    weight, bias = imprint.weight_and_bias(rng, model.like)
    used = torch.cat([g.rows for g in imprint.groups]).to(weight.device)
    params[first.weight] = _at(params[first.weight], used, weight, 0)
    params[first.bias] = _at(params[first.bias], used, bias, 0)
    params[second.weight] = _at(params[second.weight], used, column[:, None].expand(-1, imprint.total), 1)
    params[second.bias] = params[second.bias] - column * imprint.typical()
    return model.with_params(params)


def _at(old: Tensor, which: Tensor, new: Tensor, axis: int) -> Tensor:
    return old.index_copy(axis, which, new.index_select(axis, which))


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
