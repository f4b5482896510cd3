"""Whether captured tensors can be what they are said to be: a gradient, a change, or weights."""

import math
from typing import Literal

import torch

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Params

Kind = Literal["gradient", "delta", "weights"]
ALIKE, APART = 0.5, 0.3
"""Cosine with the global weights from which tensors are weights, and up to which they are none."""
LENGTHS = (0.5, 10.0)
"""Their length against that of the global weights, likewise: a step is shorter."""


def check_kind(values: Params, kind: Kind, model: Model) -> None:
    """Compares with the global weights: weights after training point their way, gradients and changes do not.

    A gradient and a change point the same way, and are not told apart.

    Raises:
        BadInput: the values are not what `kind` says; names what they seem to be.
    """
    got, own = (torch.cat([part[k].double().flatten() for k in values]) for part in (values, model.params))
    lengths = float(got.norm()), float(own.norm())
    if min(lengths) == 0:
        return
    cosine, ratio = float(got @ own) / lengths[0] / lengths[1], lengths[0] / lengths[1]
    chance = 2 / math.sqrt(len(got))
    told = f"cosine with the global weights {cosine:.2f}, length {ratio:.2g} times theirs"
    if kind != "weights" and cosine > min(ALIKE + chance, 0.999) and LENGTHS[0] < ratio < LENGTHS[1]:
        raise BadInput(f"kind={kind!r}: these are weights after training, it seems ({told}); give kind 'weights'")
    if kind == "weights" and cosine < min(0.1 + chance, APART):
        raise BadInput(
            f"kind='weights': these are no weights of this model, it seems ({told}); give kind 'gradient' or 'delta',"
            " or the global weights that this client started from"
        )
