"""Whether a network's answer can be differentiated by its input; where it cuts that off, it is made to.

A backbone under `torch.no_grad`, or behind `detach`, is no less a function of the picture. Its clients send nothing of
it, but whoever holds the network can differentiate through it.
"""

import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fedspill.core.model import Model
from fedspill.core.module.twins import copied
from fedspill.core.probing.inputs import probe_inputs, random_like
from fedspill.core.types import Params

PROBES = 4
"""Examples by which it is tried."""


def reaches_input(model: Model) -> bool:
    """Whether the logits have a derivative by the input; of tokens, which have none anyway, it is not asked."""
    calm = model.in_eval_mode()
    z = probe_inputs(calm.input, PROBES, calm.like)
    if not z.is_floating_point():
        return True
    # At other parameters: a head of zeros hides the input from the logits, and not from the update.
    moved = {k: v + 0.1 * random_like(v, k) for k, v in calm.params.items()}
    gradient = _gradients(calm, moved, z.requires_grad_(), [z])[0]
    return gradient is not None and bool(gradient.any())


def reached_names(model: Model) -> list[str]:
    """Names of the parameters that the logits depend on, as far as gradients tell."""
    calm = model.in_eval_mode()
    leaves = {k: v.detach().requires_grad_() for k, v in calm.params.items()}
    gradients = _gradients(calm, leaves, probe_inputs(calm.input, PROBES, calm.like), list(leaves.values()))
    return [k for k, gradient in zip(leaves, gradients, strict=True) if gradient is not None]


def _gradients(model: Model, params: Params, z: Tensor, by: list[Tensor]) -> Sequence[Tensor | None]:
    """Of a random sum of the logits; None for what they do not depend on."""
    with torch.enable_grad():
        logits = model.logits(params, z)
    if not logits.requires_grad:
        return [None] * len(by)
    return torch.autograd.grad(logits, by, random_like(logits, "reach"), allow_unused=True)


def differentiable(model: Model) -> Model | None:
    """The model with a network that is differentiated through `no_grad` and `detach`; None if that does not help."""
    network = copied(model.module)
    network.forward = types.MethodType(_forward, network)
    through = replace(model, module=network)
    return through if reaches_input(through) else None


def _forward(self: nn.Module, *inputs: Any, **named: Any) -> Any:
    with _Through():
        return type(self).forward(self, *inputs, **named)


class _Through(TorchFunctionMode):
    """Inside, nothing cuts a gradient off."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name == "_set_grad_enabled":
            return None
        if func in (Tensor.detach, torch.detach, Tensor.detach_) or getattr(func, "__self__", None) is Tensor.data:
            return args[0]
        return func(*args, **(kwargs or {}))
