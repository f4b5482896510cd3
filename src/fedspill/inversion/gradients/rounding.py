"""Rounding of a gradient that was recovered from a delta, the difference of two rounded parameters.

A delta that the client computes is off by a unit in the last place of the parameters, however small it is itself;
whatever recovers the gradient multiplies this error with the delta. A gradient that was sent as such is rounded by its
own size only, so that its absolute error is 0 here.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Params, Update, UpdateKind


def unit(update: Update, name: str) -> float:
    """The relative rounding of the parameters that a delta is the difference of; 0 for a gradient."""
    return 0.0 if update.kind is UpdateKind.GRADIENT else torch.finfo(update.values[name].dtype).eps


def entry_rounding(update: Update, knowledge: ServerKnowledge, name: str, scale: float) -> Float[Tensor, "..."]:
    """The absolute error of each entry of one recovered gradient, float64, shaped as the tensor.

    Args:
        update: holds the tensor.
        knowledge: the parameters as sent.
        name: of the parameter.
        scale: by what the update was multiplied to get the gradient.
    """
    size = knowledge.model.params[name].abs().to(update.values[name].device, torch.float64)
    return unit(update, name) * scale * size


def largest_rounding(update: Update, params: Params, names: Iterable[str], scale: float) -> float:
    """The largest absolute error of an entry among the named tensors' recovered gradients.

    Args:
        update: holds the tensors.
        params: as sent, in any precision.
        names: of parameters; at least one.
        scale: by what the update was multiplied to get the gradients.
    """
    return max(unit(update, n) * scale * float(params[n].abs().max()) for n in names)


def relative_rounding(update: Update, knowledge: ServerKnowledge, names: Iterable[str]) -> float:
    """The error of a whole tensor over its norm, in the worst of the named ones; it has no unit."""
    params = knowledge.model.params
    sizes = [(unit(update, n) * params[n].norm(), update.values[n].norm()) for n in names]
    return max(float(error / size.clamp_min(1e-300)) for error, size in sizes)
