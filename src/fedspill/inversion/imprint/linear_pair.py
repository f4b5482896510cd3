"""Bins written into a linear layer that the network has, and equal columns into the one behind it.

Fowl et al.: "Robbing the Fed", ICLR 2022, arXiv:2110.13057, section 3.3: parameters only, the architecture stays.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.rng import randn
from fedspill.inversion.gradients.layer import Layer
from fedspill.inversion.imprint.certificate import Outlet
from fedspill.inversion.imprint.making import Bins
from fedspill.inversion.imprint.rows import Imprint
from fedspill.inversion.network.trace import Step, trace

EACH = 2
"""Rows of one function at least."""


@dataclass(frozen=True)
class LinearPair:
    """Two linear layers with a ReLU between them.

    Attributes:
        first: holds the bins.
        second: gets them.
    """

    first: Step
    second: Step

    @property
    def rows(self) -> int:
        """Rows of the first layer."""
        return self.first.output_shape[-1]

    @property
    def layer(self) -> Layer:
        """Names of the first layer's weight and bias.

        Raises:
            NotApplicable: it has no bias.
        """
        return Layer(*_names(self.first))

    def bins(self, rows: int | None, wanted: Bins) -> Bins:
        """What is measured: all of a narrow layer's rows measure fewer functions, as each needs two.

        Args:
            rows: bins of all functions together; None takes all rows.
            wanted: how they measure and sort.

        Raises:
            NotApplicable: the layer has fewer rows.
        """
        if rows is not None and rows <= self.rows:
            return replace(wanted, rows=rows)
        if rows is not None or self.rows < EACH:
            raise NotApplicable(f"rows={rows or EACH}, but {self.first.describe()} has {self.rows}")
        return replace(wanted, rows=self.rows, functions=wanted.functions[: self.rows // EACH])

    def written(
        self, model: Model, imprint: Imprint, throughput: float, rng: torch.Generator, *, active: bool = True
    ) -> tuple[Model, Outlet]:
        """The model with other numbers in both layers, and where the rows go on to.

        Args:
            model: stays as it is.
            imprint: of the first layer.
            throughput: by what the mean over the bins is multiplied before it goes on.
            rng: of the rows that belong to no bin, and of the column.
            active: False leaves the model as it is.

        Raises:
            NotApplicable: a layer has no bias.
        """
        # One column for all bins. Its signs differ: equal ones would shift all logits alike, which a softmax ignores.
        bins = sum(len(g.rows) for g in imprint.groups)
        column = randn((self.second.output_shape[-1],), rng, model.like) * (throughput / bins / imprint.gain)
        changed = _written(model, imprint, self.layer, Layer(*_names(self.second)), column, rng) if active else model
        return changed, Outlet(self.first.name, self.second.name, column)


def linear_pair(model: Model, at: str) -> LinearPair:
    """The linear layer of this name, "" is the first one, and the one that follows behind a ReLU.

    Raises:
        NotApplicable: there are none.
    """
    steps = [s for s in trace(model).steps if not s.passes()]
    linear = [i for i, s in enumerate(steps) if isinstance(s.module, nn.Linear) and at in ("", s.name)]
    if not linear:
        raise NotApplicable(f"the network has no linear layer {at!r}" if at else "the network has no linear layer")
    first, after = steps[linear[0]], steps[linear[0] + 1 : linear[0] + 3]
    kinds = [type(s.module) for s in after]
    if kinds != [nn.ReLU, nn.Linear] or not all(s.linked for s in after):
        raise NotApplicable(f"{first.describe()} is not followed by a ReLU and another linear layer")
    return LinearPair(first, after[1])


def _names(step: Step) -> tuple[str, str]:
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if weight is None or bias is None:
        raise NotApplicable(f"{step.describe()} has no bias, by whose gradient the readout divides")
    return weight, bias


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
