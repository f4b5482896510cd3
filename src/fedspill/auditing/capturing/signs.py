"""Whether a delta is server minus client, as here, or client minus server, as NVFlare and others send it.

Every value of a gradient of cross-entropy is linear in p - y, so what tells the sign must be in that: a class that is
not in the batch has p > 0 at the head's bias. Of n examples at least K - n of K classes are such, so if n < K / 2 the
sign that most have is the gradient's. BatchNorm's counters of batches tell it of any batch: a client only counts up.
"""

import math
from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.model import Model
from fedspill.core.probing.head import last_linear
from fedspill.core.types import Params

BALANCED, RARE = 1e-2, 5e-3
"""Share of their absolute sum that the bias gradient's entries may sum to, as noise would not let them; or how likely
noise may be to give so many of them one sign, as after Adam, whose steps are all of one length."""
COUNTERS = "num_batches_tracked"


def uphill(values: Params, buffers: Mapping[str, Tensor], model: Model, num_examples: int | None) -> bool | None:
    """Whether the values point uphill, as a gradient does; None if nothing tells.

    Args:
        values: by the names of parameters.
        buffers: differences of buffers; {} if they are none.
        num_examples: how many examples are behind them, if known.
    """
    counted = sum(float(v) for k, v in buffers.items() if k.endswith(COUNTERS))
    if counted:
        return counted < 0
    bias = _head_bias(values, model)
    if bias is None or num_examples is None or 2 * num_examples >= len(bias):
        return None
    absent = len(bias) - num_examples
    if abs(float(bias.sum())) > BALANCED * float(bias.abs().sum()) and _by_chance(absent, len(bias)) > RARE:
        return None
    up, down = int((bias > 0).sum()) >= absent, int((bias < 0).sum()) >= absent
    return up if up != down else None


def _by_chance(least: int, total: int) -> float:
    """How likely it is that at least so many of all coins show the same side."""
    return 2 * sum(math.comb(total, k) for k in range(least, total + 1)) / 2**total


def _head_bias(values: Params, model: Model) -> Tensor | None:
    """What the values say of the head's bias, if the loss is plain cross-entropy and there is one."""
    if model.loss_fn is not functional.cross_entropy:
        return None
    try:
        name = last_linear(model).bias
    except NotApplicable:
        return None
    return None if name is None or name not in values else values[name].double()
