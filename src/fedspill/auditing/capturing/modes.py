"""Whether BatchNorm's running statistics, where a client sent them, fit the mode that it is said to have run in."""

import torch
from torch import Tensor

from fedspill.core.model import BATCH_NORMS, Model, parameter_name
from fedspill.core.types import Params

MOVED = 0.02
"""Share of its length by which a statistic moves for certain; rounding to 8 bits may make less of it."""
SAME = 1e-6
"""Likewise, of what did not move."""
SHORT = (torch.float16, torch.bfloat16)
COUNTER = "num_batches_tracked"
STATISTICS = ("running_mean", "running_var", COUNTER)


def mode_note(after: Params | None, model: Model) -> str | None:
    """A warning where they moved in eval mode, or did not in train mode; None if nothing speaks against the mode.

    Args:
        after: the client's own buffers, if any are known.
        model: as the client got it, in the mode that is said.
    """
    after = after or {}
    sent = [name for name in _statistics(model) if name in after]
    moved = [name for name in sent if _has_moved(name, model.buffers[name], after[name])]
    if moved and not model.training:
        return (
            f"mode='eval' was said, but BatchNorm's running statistics moved at the client ({_some(moved)}): it ran in"
            " train mode, and what is simulated in eval mode is another update; say mode 'train'."
        )
    if sent and model.training and all(_is_same(model.buffers[name], after[name]) for name in sent):
        return (
            f"mode='train' was said, but BatchNorm's running statistics are those of the model ({_some(sent)}): its"
            " layers ran in eval mode, it seems, and batch statistics make another update; say mode 'eval'."
        )
    return None


def _statistics(model: Model) -> list[str]:
    layers = [path for path, module in model.module.named_modules() if isinstance(module, BATCH_NORMS)]
    names = [parameter_name(path, statistic) for path in layers for statistic in STATISTICS]
    return [name for name in names if name in model.buffers]


def _has_moved(name: str, before: Tensor, after: Tensor) -> bool:
    least = 0.0 if name.endswith(COUNTER) else MOVED
    return not _is_same(before, after) and _apart(before, after) > least


def _is_same(before: Tensor, after: Tensor) -> bool:
    """Up to rounding to 16 bits."""
    return any(_apart(value, after) <= SAME for value in (before, *(before.to(d).to(before) for d in SHORT)))


def _apart(before: Tensor, after: Tensor) -> float:
    one, two = before.double(), after.to(before.device).double()
    length, distance = float(one.norm()), float((two - one).norm())
    return distance / length if length else distance


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
