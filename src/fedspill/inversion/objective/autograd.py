"""An objective that brings its own gradient, as a part of an ordinary differentiable sum."""

import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fedspill.core.errors import NotApplicable

ValueAndGradients = Callable[[Tensor, Tensor], tuple[Tensor, list[Tensor | None]]]
"""(z, labels) to a value and its gradients, None for what requires none."""


def evaluated(function: ValueAndGradients, z: Tensor, labels: Tensor) -> Tensor:
    """The value, or values (r) of a stack z (r, ...), differentiable once.

    Value and gradients are computed together, and no graph is kept.
    """
    return cast("Tensor", _Evaluated.apply(function, z, labels))


def product(outputs: list[Tensor], directions: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """The vector-Jacobian product of outputs with one direction each; 0 for inputs that no output depends on."""
    attached = [(o, d) for o, d in zip(outputs, directions, strict=True) if o.requires_grad]
    if not attached:
        return [torch.zeros_like(i) for i in inputs]
    ends, along = zip(*attached, strict=True)
    with differentiable_twice():
        gradients: Any = torch.autograd.grad(ends, inputs, along, allow_unused=True)
    return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, gradients, strict=True)]


@contextmanager
def differentiable_twice() -> Generator[None]:
    """Inside, an operation that PyTorch cannot differentiate twice is told in one line.

    Raises:
        NotApplicable: there is one.
    """
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"derivative for '?(?:aten::)?_*(\w+?)_backward'? is not implemented", str(error))
        if found is None:
            raise
        raise NotApplicable(
            f"the network uses {found[1]}, which PyTorch cannot differentiate twice, as matching gradients wants"
        ) from error


class _Evaluated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: ValueAndGradients, z: Tensor, labels: Tensor) -> Tensor:
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_(n) for v, n in zip((z, labels), needed, strict=True)]
            value, ctx.gradients = function(*leaves)
        return value.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, *(None if g is None else g * _leading(outer[0], g) for g in ctx.gradients)


def _leading(factors: Tensor, values: Tensor) -> Tensor:
    """Factors () or (r), to multiply values (r, ...) with."""
    return factors.reshape(*factors.shape, *(1 for _ in values.shape[factors.dim() :]))
