"""The plain network inside a wrapper that changes nothing but names, and what no wrapper can make usable."""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedspill.core.errors import BadInput
from fedspill.core.module.twins import HOOKS, copied
from fedspill.core.module.wrappers import inside

FOREIGN_HOOKS = ("opacus.",)
"""Packages whose hooks record gradients for their own optimiser."""


def unwrapped(module: nn.Module) -> nn.Module:
    """The network itself, whose parameters have their plain names; the caller's own stays as it is.

    A copy where wrappers are inside too, or hooks of a library that records gradients.
    """
    inner = module
    while (held := inside(inner)) is not None:
        inner = held
    layers = list(inner.modules())
    if any(inside(layer) for layer in layers) or any(_foreign(hook) for layer in layers for hook in _hooks(layer)):
        return _without_hooks(copied(inner))
    return inner


def _hooks(layer: nn.Module) -> list[object]:
    return [hook for name in HOOKS for hook in layer.__dict__[name].values()]


def _without_hooks(network: nn.Module) -> nn.Module:
    for layer in network.modules():
        for name in HOOKS:
            hooks = layer.__dict__[name]
            for key in [k for k, hook in hooks.items() if _foreign(hook)]:
                del hooks[key]
    return network


def _foreign(hook: object) -> bool:
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "")).startswith(FOREIGN_HOOKS)


def materialised(module: nn.Module, z: Tensor) -> nn.Module:
    """The network itself; of lazy layers a copy that one call in eval mode has given their shapes.

    Args:
        z: an encoded input (1, ...).

    Raises:
        BadInput: it cannot be called.
    """
    if not any(is_lazy(tensor) for tensor in (*module.parameters(), *module.buffers())):
        return module
    plain = copied(module).eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            plain(z)
    except Exception as error:  # a network of anyone's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"the network has lazy layers, and cannot be called on {tuple(z.shape)}: {reason}") from error
    for old, new in zip(module.modules(), plain.modules(), strict=True):
        new.training = old.training
    return plain


def check_usable(module: nn.Module) -> None:
    """Whether a gradient by the parameters can be computed and compared.

    Raises:
        BadInput: the network is compiled by TorchScript, or a parameter is complex, sparse, of whole numbers, or has no
            values; names it.
    """
    if any(isinstance(layer, torch.jit.ScriptModule) for layer in module.modules()):
        raise BadInput("the network holds a TorchScript module; the nn.Module that it was made from is needed")
    for name, value in module.named_parameters():
        what = _unusable(value)
        if what:
            raise BadInput(f"parameter {name!r} {what}; real, dense, floating parameters with values are needed")


def _unusable(value: Tensor) -> str | None:
    if is_lazy(value):
        return "is not initialised"
    if value.is_meta:
        return "is on the meta device"
    if value.layout is not torch.strided:
        return f"has the layout {value.layout}"
    if value.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"is of {value.dtype}"
    return None
