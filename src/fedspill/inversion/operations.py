"""Activations of the field that can be undone, wholly or where a unit fires."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Kind = Literal["affine", "relu", "sigmoid", "tanh", "other"]
"""Of an operation."""

_NAMED: dict[Any, Kind] = {
    **dict.fromkeys((nn.ReLU, functional.relu, torch.relu, torch.relu_, "relu", "relu_"), "relu"),
    **dict.fromkeys((nn.Sigmoid, functional.sigmoid, torch.sigmoid, "sigmoid"), "sigmoid"),
    **dict.fromkeys((nn.Tanh, functional.tanh, torch.tanh, "tanh"), "tanh"),
}
_INVERSES: dict[Kind, Callable[[Tensor], Tensor]] = {"sigmoid": torch.logit, "tanh": torch.atanh}
FIRES = 1e-5
"""Share of the largest value from which on a unit surely fires."""


def named_kind(target: Any) -> Kind | None:
    """Of a layer's class, a function or a method's name; None if it is no activation known here."""
    return _NAMED.get(target)


def undone(kind: Kind, value: Tensor) -> Tensor | None:
    """What entered the activation, NaN where that cannot be told; None if nowhere."""
    if kind == "relu":
        return value.where(value > FIRES * value.max(), float("nan"))
    if kind not in _INVERSES:
        return None
    found = _INVERSES[kind](value)
    return found.where(found.isfinite(), float("nan"))
