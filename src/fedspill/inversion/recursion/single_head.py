"""What one example's gradient says of the last linear layer: its input, and the loss's derivatives by the logits.

The gradient of the weight is their product, so that they are known up to a factor s, and a bias's gradient tells it.
Without one the loss does: its derivatives at the logits that follow from s must be those that follow from s. For one
output and the logistic loss this is R-GAP's equation (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733), which may have
two roots; for several outputs there are as many equations for the one unknown.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model, parameter_name
from fedspill.core.types import Params
from fedspill.inversion.recursion.graph import Dataflow
from fedspill.inversion.recursion.layer_by_layer import AGREES, Head

RANGE = (-12.0, 1.5)
"""Powers of 10 between which the length of the loss's derivatives is looked for."""
POINTS = 3000
"""Lengths that are tried, of each sign, between which roots are found by halving."""
HALVINGS = 100
FITS = 1e-3
"""Relative misfit of the loss's derivatives at a root beyond which it is none."""

Derivative = Callable[[Float[Tensor, "m k"]], Float[Tensor, "m k"]]
"""From logits to the loss's derivatives by them, for one label."""


def heads_of_one(model: Model, flow: Dataflow, gradient: Params, labels: Tensor) -> list[Head]:
    """Every head that one example may have: one, or as many as the loss's equation has roots.

    Args:
        gradient: of one example's loss.
        labels: its label, as the loss takes it, (1,) or (1, ...); not looked at where the head's bias has a gradient.

    Raises:
        NotApplicable: the network does not end in a linear layer with a gradient, or this is not one example's.
    """
    layer, name = flow.module(flow.output), str(flow.output.target)
    if not isinstance(layer, nn.Linear) or flow.blank(flow.output).dim() != 2:
        raise NotApplicable("the network does not end in a linear layer")
    sent, bias = (gradient.get(parameter_name(name, which)) for which in ("weight", "bias"))
    if sent is None or not bool(sent.any()):
        raise NotApplicable("the last layer's weight has no gradient")
    if bias is not None and bool(bias.any()):
        return [_by_bias(sent.double(), bias.double())]
    line = _Line.of(sent.double(), layer)
    found = [line.head(s) for s in line.roots(_derivative(model, labels))]
    if not found:
        raise NotApplicable("no input of the last layer gives its gradient, with this loss and this label")
    return found


def _by_bias(sent: Tensor, bias: Tensor) -> Head:
    value = bias @ sent / (bias @ bias)
    if (sent - bias[:, None] * value).norm() > AGREES * sent.norm():
        raise NotApplicable(f"{SEVERAL} its rows are not multiples of one input")
    return Head(value[None], bias[None])


SEVERAL = "the last layer's gradient is not that of one example:"


@dataclass(frozen=True)
class _Line:
    """All inputs and derivatives whose product is the gradient: s * direction, and size / s * features.

    Attributes:
        direction: of the derivatives, of length 1.
        weight: what the features weigh in the logits.
        offset: the bias.
    """

    direction: Float[Tensor, " k"]
    features: Float[Tensor, " d"]
    size: float
    weight: Float[Tensor, " k"]
    offset: Float[Tensor, " k"]

    @classmethod
    def of(cls, sent: Float[Tensor, "k d"], layer: nn.Linear) -> "_Line":
        left, values, right = torch.linalg.svd(sent, full_matrices=False)
        if len(values) > 1 and values[1] > AGREES * values[0]:
            raise NotApplicable(f"{SEVERAL} its rank is not 1")
        own = cast("Tensor | None", layer.bias)
        bias = sent.new_zeros(len(sent)) if own is None else own.double()
        return cls(left[:, 0], right[0], float(values[0]), layer.weight.double() @ right[0], bias)

    def head(self, s: float) -> Head:
        """What follows from the factor."""
        return Head((self.size / s * self.features)[None], (s * self.direction)[None])

    def roots(self, derivative: Derivative) -> list[float]:
        """Factors at which the loss's derivatives are those that follow."""
        powers = torch.logspace(*RANGE, POINTS, dtype=self.direction.dtype, device=self.direction.device)
        return [r for sign in (1.0, -1.0) for r in self._roots(sign * powers, derivative)]

    def _roots(self, grid: Float[Tensor, " m"], derivative: Derivative) -> list[float]:
        off = self._off(grid, derivative)
        crossed = ((off[1:] * off[:-1] <= 0) & off[1:].isfinite() & off[:-1].isfinite()).nonzero()[:, 0]
        found = [self._halved(float(grid[i]), float(grid[i + 1]), derivative) for i in crossed.tolist()]
        return [s for s in found if self._fits(s, derivative)]

    def _halved(self, low: float, high: float, derivative: Derivative) -> float:
        rising = float(self._off(self.direction.new_tensor([low]), derivative)) < 0
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            below = float(self._off(self.direction.new_tensor([middle]), derivative)) < 0
            low, high = (middle, high) if below == rising else (low, middle)
        return (low + high) / 2

    def _off(self, s: Float[Tensor, " m"], derivative: Derivative) -> Float[Tensor, " m"]:
        """What the derivatives at the logits of s are too long, relative to s."""
        return derivative(self._logits(s)) @ self.direction / s - 1

    def _fits(self, s: float, derivative: Derivative) -> bool:
        at = derivative(self._logits(self.direction.new_tensor([s])))[0]
        return bool((at - s * self.direction).norm() <= FITS * abs(s))

    def _logits(self, s: Float[Tensor, " m"]) -> Float[Tensor, "m k"]:
        return self.size / s[:, None] * self.weight + self.offset


def _derivative(model: Model, labels: Tensor) -> Derivative:
    labels = labels.double() if labels.is_floating_point() else labels

    def derivative(logits: Tensor) -> Tensor:
        leaf = logits.detach().clone().requires_grad_()
        with torch.enable_grad():
            total = torch.stack([model.loss_fn(row, labels) for row in leaf.split(1)]).sum()
        return torch.autograd.grad(total, leaf)[0]

    return derivative
