"""Activations of the field that can be undone, wholly or where a unit fires."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["affine", "relu", "leaky", "sigmoid", "tanh", "other"]
"""Of an operation; a leaky one is linear above 0 and, with another factor, below."""

_NAMED: dict[Any, Kind] = {
    **dict.fromkeys((nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"), "relu"),
    **dict.fromkeys((nn.LeakyReLU, nn.PReLU, nn.RReLU), "leaky"),
    **dict.fromkeys((functional.leaky_relu, functional.prelu, torch.prelu, "prelu"), "leaky"),
    **dict.fromkeys((functional.rrelu, torch.rrelu), "leaky"),
    **dict.fromkeys((nn.Sigmoid, functional.sigmoid, torch.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((nn.Tanh, functional.tanh, torch.tanh, "tanh"), "tanh"),
}
_INVERSES: dict[Kind, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "sigmoid": (torch.logit, lambda y: y * (1 - y)),
    "tanh": (torch.atanh, lambda y: 1 - y * y),
}
"""With the activation's derivative as a function of its output."""
STEEP = 3e-3
"""Derivative below which the inverse would magnify the rounding of the output too much."""
FIRES = 1e-5
"""Share of the largest value from which on a unit surely fires."""


def named_kind(target: Any) -> Kind | None:
    """The kind of a layer's class, a function or a method's name; None if it is no activation known here."""
    return _NAMED.get(target)


def undone(kind: Kind, value: Tensor, below: Tensor | None = None) -> Tensor | None:
    """What entered the activation, NaN where that cannot be told; None if nowhere.

    Args:
        below: the factor of a leaky activation below 0, which is above 0 itself.
    """
    if kind == "leaky" and below is not None:
        return torch.where(value > 0, value, value / below)
    if kind == "relu":
        return value.where(value > FIRES * value.max(), float("nan"))
    if kind not in _INVERSES:
        return None
    inverse, derivative = _INVERSES[kind]
    return inverse(value).where(derivative(value) > STEEP, float("nan"))


def slope(kind: Kind, output: Tensor, below: Tensor | None = None) -> Tensor | None:
    """The activation's derivative where it puts this out; None if it is no activation known here."""
    if kind == "leaky" and below is not None:
        return torch.where(output > 0, torch.ones_like(output), below)  # at 0 as PyTorch has it
    if kind == "relu":
        return (output > 0).to(output)
    return _INVERSES[kind][1](output) if kind in _INVERSES else None


Invertible = nn.ReLU | nn.LeakyReLU | nn.Sigmoid | nn.Tanh | nn.ELU | nn.Softplus | nn.Identity


def slope_from_output(activation: Invertible | None, output: Float[Tensor, "*d"]) -> Float[Tensor, "*d"]:
    """The derivative of an activation, computed from its output alone, element by element."""
    one = torch.ones_like(output)
    match activation:
        case nn.ReLU():
            return (output > 0).to(output)
        case nn.LeakyReLU():
            return torch.where(output > 0, one, one * activation.negative_slope)
        case nn.Sigmoid():
            return output * (1 - output)
        case nn.Tanh():
            return 1 - output.square()
        case nn.ELU():
            return torch.where(output > 0, one, output + activation.alpha)
        case nn.Softplus():
            return -torch.expm1(-activation.beta * output)
        case _:
            return one
