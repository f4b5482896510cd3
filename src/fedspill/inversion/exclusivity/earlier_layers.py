"""The way back from the last hidden layer's inputs to those of the first, by activation patterns (Pan et al. 2022).

With a layer's output known for every example, so is which units fire, and hence the derivative of the loss by the
layer's output; the gradient of its weight is then linear in its inputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.types import Mark, Params
from fedspill.inversion.exclusivity.dense_end import DenseEnd, Passed, derivatives, passed
from fedspill.inversion.network.dense import Dense

EXPLAINED = 1e-3
"""Relative error below which a row is accounted for."""
TRIMS = 4
STRAY = 20.0
"""Of the median error of the rows of a least-squares fit: rows beyond it are left out, and the fit repeated."""
NEAR = 1e-2
"""Relative distance up to which a better input may lie from the first one."""


@dataclass(frozen=True)
class Rebuilt:
    """One example, or what may be one.

    Attributes:
        x: the input of the first of the linear layers, float64.
        label: its class.
        units: of the last hidden layer that show it, strongest first.
        copies: how often the batch holds it.
        mark: "alone" is certified.
        confidence: 1 certified, 0.5 where rounding forbids to tell, 0 for a mixture.
    """

    x: Float[Tensor, " d"]
    label: int
    units: Tensor
    copies: int
    mark: Mark
    confidence: float


def walked_back(
    end: DenseEnd, params: Params, gradient: Params, rebuilt: Sequence[Rebuilt], count: int, eps: float
) -> list[Rebuilt]:
    """The examples with the inputs of the first layer; those whose way back is not unique are left out.

    Least squares over the rows that these examples account for, in the place of the rows that one example alone owns.

    Args:
        end: three linear layers or more.
        params: of the layers, float64.
        gradient: mean gradient of one step, float64.
        rebuilt: with the inputs of the last hidden layer.
        count: n.
        eps: relative rounding of the gradient.
    """
    kept = _solved(end, params, gradient, rebuilt, count, len(end.layers) - 2)
    for number in range(len(end.layers) - 3, -1, -1):
        outputs = [r.x.where(r.x > max(1e-9, 100 * eps) * r.x.max(), 0.0) for r in kept]
        cleaned = [replace(r, x=x) for r, x in zip(kept, outputs, strict=True)]
        kept = _entered(end, params, gradient, cleaned, count, number)
    return kept


def _solved(
    end: DenseEnd, params: Params, gradient: Params, rebuilt: Sequence[Rebuilt], count: int, number: int
) -> list[Rebuilt]:
    """Better inputs of a layer, by all of its rows, from inputs that tell which units fire."""
    layers = end.layers[number:]
    way = passed(layers, params, torch.stack([r.x for r in rebuilt]))
    delta = derivatives(layers, params, way, shared_errors(way, rebuilt, count))[0]
    x = _least_squares(gradient, layers[0], delta, complete=sum(r.copies for r in rebuilt) == count)
    if x is None:
        return list(rebuilt)
    # Where the rows do not tell an example's input, least squares leads astray.
    near = [float((v - r.x).norm()) <= NEAR * float(r.x.norm()) for r, v in zip(rebuilt, x, strict=True)]
    return [replace(r, x=v) if ok else r for r, v, ok in zip(rebuilt, x, near, strict=True)]


def _entered(
    end: DenseEnd, params: Params, gradient: Params, rebuilt: Sequence[Rebuilt], count: int, number: int
) -> list[Rebuilt]:
    """What entered a layer, from what the layer and its ReLU put out."""
    if not rebuilt:
        return []
    layer, above = end.layers[number], end.layers[number + 1 :]
    target = torch.stack([r.x for r in rebuilt])
    way = passed(above, params, target)
    delta = (
        derivatives(above, params, way, shared_errors(way, rebuilt, count))[0] @ params[above[0].weight] * (target > 0)
    )
    x = _least_squares(gradient, layer, delta, complete=sum(r.copies for r in rebuilt) == count)
    if x is None:
        return []
    again = passed([layer], params, x).outputs[0].relu()
    close = (again - target).norm(dim=1) <= EXPLAINED * target.norm(dim=1)
    consistent = [replace(r, x=v) for r, v, ok in zip(rebuilt, x, close.tolist(), strict=True) if ok]
    # What rounding hid of the patterns, the inputs tell.
    return _solved(end, params, gradient, consistent, count, number) if consistent else []


def shared_errors(way: Passed, rebuilt: Sequence[Rebuilt], count: int) -> Float[Tensor, "m classes"]:
    """The derivative of the mean loss of n examples by the logits of these, copies counted."""
    logits = way.outputs[-1]
    labels = torch.tensor([r.label for r in rebuilt], device=logits.device)
    return logits.new_tensor([r.copies / count for r in rebuilt])[:, None] * way.errors(labels)


def _least_squares(
    gradient: Params, layer: Dense, delta: Float[Tensor, "m out"], *, complete: bool
) -> Float[Tensor, "m d"] | None:
    rows = _accounted(gradient.get(layer.bias or ""), delta, complete=complete).nonzero()[:, 0]
    observed, solution = gradient[layer.weight], None
    for _ in range(TRIMS):
        if not len(rows):
            break
        solution = torch.linalg.pinv(delta[:, rows].T) @ observed[rows]
        missed = (delta[:, rows].T @ solution - observed[rows]).norm(dim=1)
        # A unit of which rounding hid whether it fired spoils its row.
        rows = rows[missed <= STRAY * missed.median()]
    return solution


def _accounted(bias_grad: Tensor | None, delta: Float[Tensor, "m out"], *, complete: bool) -> Bool[Tensor, " out"]:
    """Rows in which no other example takes part."""
    moved = (delta != 0).any(0)
    if complete:
        return moved
    if bias_grad is None:
        return torch.zeros_like(moved)
    return moved & ((bias_grad - delta.sum(0)).abs() <= EXPLAINED * bias_grad.abs())
