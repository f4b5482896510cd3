"""Whether captured tensors can be what they are said to be: a gradient, a change, or weights."""

import math
from typing import Literal

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Params

Kind = Literal["gradient", "delta", "weights"]
ALIKE, LENGTHS = 0.5, (0.5, 10.0)
"""Cosine with the global weights, and length against theirs, of tensors that are weights: a step is shorter."""
HELD = 0.5
"""Share of the global weights that weights after training hold at least, by projection; a step holds next to none."""


def check_kind(values: Params, kind: Kind, model: Model) -> None:
    """Compares with the global weights: weights after training point their way, gradients and changes do not.

    A gradient and a change point the same way, and are not told apart.

    Raises:
        BadInput: the values are not what `kind` says; names what they seem to be.
    """
    got, own, both = _products(values, model.params)
    if min(got, own) == 0:
        return
    cosine, ratio = both / math.sqrt(got * own), math.sqrt(got / own)
    chance = 2 / math.sqrt(sum(v.numel() for v in values.values()))
    told = f"cosine with the global weights {cosine:.2f}, length {ratio:.2g} times theirs"
    if kind != "weights" and cosine > min(ALIKE + chance, 0.999) and LENGTHS[0] < ratio < LENGTHS[1]:
        raise BadInput(f"kind={kind!r}: these are weights after training, it seems ({told}); give kind 'weights'")
    if kind == "weights" and ratio * (cosine + chance) < HELD:
        raise BadInput(
            f"kind='weights': these are no weights of this model, it seems ({told}); give kind 'gradient' or 'delta',"
            " or the global weights that this client started from"
        )


def _products(values: Params, weights: Params) -> tuple[float, float, float]:
    """Inner products over the values' names: with themselves, of the weights with themselves, and of the two."""
    got = own = both = 0.0
    for name, value in values.items():  # one tensor at a time: a network may fill the memory
        v, w = (_real(t).double().flatten() for t in (value, weights[name]))
        got, own, both = got + float(v @ v), own + float(w @ w), both + float(v @ w)
    return got, own, both


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


SHORT = (torch.bfloat16, torch.float16)
FELT = 0.05
"""Share of the change from which rounding is worth a note."""


def rounding_note(values: Params, model: Model) -> str | None:
    """A note where weights were rounded to 16 bits, and with them their change; None if the global ones were too."""
    own = {k: model.params[k] for k in values}
    short = next((d for d in SHORT if _fits(values, d) and not _fits(own, d)), None)
    if short is None:
        return None
    error = torch.stack([(own[k] - own[k].to(short)).double().pow(2).sum() for k in own]).sum().sqrt()
    change = torch.stack([(own[k] - v).double().pow(2).sum() for k, v in values.items()]).sum().sqrt()
    if float(error) < FELT * float(change):
        return None
    name, share = str(short).removeprefix("torch."), float(error / change)
    return f"The client's weights are rounded to {name}, by about {share:.0%} of the change that is attacked."


def _fits(values: Params, dtype: torch.dtype) -> bool:
    return all(torch.equal(v, v.to(dtype).to(v.dtype)) for v in values.values())
