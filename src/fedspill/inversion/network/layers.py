"""What enters a layer somewhere inside a network."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable, few
from fedspill.core.model import Model
from fedspill.core.types import Params

CHUNK = 64
"""Examples per forward pass."""


def layer_at(model: Model, at: str) -> nn.Module:
    """The module of this name; "" is the network itself.

    Raises:
        NotApplicable: there is none; names some that there are.
    """
    named = dict(model.module.named_modules())
    if at not in named:
        raise NotApplicable(f"the network has no layer {at!r}; it has {few((n for n in named if n), 12)}")
    return named[at]


def layer_inputs(model: Model, at: str, z: Tensor) -> Tensor:
    """What enters the layer `at` for encoded inputs z (n, ...), without a graph: (n, ...), not flattened.

    Raises:
        NotApplicable: there is no such layer, or it is not called exactly once with one row per example.
    """
    if at == "":
        return z
    return torch.cat([_entering(model, at, chunk) for chunk in z.split(CHUNK)])


class _Reached(Exception):
    """The layer was reached: what lies behind it need not be computed."""


def reaching(model: Model, at: str) -> Callable[[Params, Tensor], Tensor]:
    """What enters the layer `at`, as a function of parameters and encoded inputs that can be differentiated.

    What lies behind the layer is not computed.

    Raises:
        NotApplicable: there is no such layer; from the function, if it is not called with one row per example.
    """
    layer_at(model, at)

    def entering(params: Params, z: Tensor) -> Tensor:
        return z if at == "" else _caught(model, at, params, z)

    return entering


Hooks = Sequence[tuple[nn.Module, Callable[[nn.Module, tuple[object, ...]], None]]]


def _reached(model: Model, params: Params, z: Tensor, hooks: Hooks) -> bool:
    """Runs the network until one of the hooks, called before its module, raises `_Reached`."""
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    try:
        model.logits(params, z)
    except _Reached:
        return True
    finally:
        for handle in handles:
            handle.remove()
    return False


def _entering(model: Model, at: str, z: Tensor) -> Tensor:
    with torch.no_grad():
        return _caught(model, at, model.params, z)


def _caught(model: Model, at: str, params: Params, z: Tensor) -> Tensor:
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[object, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or len(inputs[0]) != len(z):
            raise NotApplicable(f"the layer {at!r} is not called with one tensor of one row per example")
        seen.append(inputs[0])
        raise _Reached

    if not _reached(model, params, z, [(layer_at(model, at), keep)]):
        raise NotApplicable(f"the network does not call its layer {at!r}")
    return seen[0]


def behind_embedding(model: Model, z: Tensor) -> str:
    """Name of the first layer that gets numbers on a scale, one row per example, after an embedding was looked up.

    Args:
        model: takes token numbers.
        z: encoded inputs (n, t).

    Raises:
        NotApplicable: there is no such layer.
    """
    looked_up, behind = list[str](), list[str]()

    def keep(name: str) -> Callable[[nn.Module, tuple[object, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[object, ...]) -> None:
            if isinstance(module, nn.Embedding):
                looked_up.append(name)
            elif looked_up and not behind and inputs and _rows_of_numbers(inputs[0], len(z)):
                behind.append(name)
                raise _Reached

        return hook

    hooks = [(module, keep(name)) for name, module in model.module.named_modules() if name]
    with torch.no_grad():
        reached = _reached(model, model.params, z, hooks)
    if not reached:
        raise NotApplicable(
            "no layer of the network gets what an nn.Embedding looked up, one tensor with a row per example"
        )
    return behind[0]


def _rows_of_numbers(value: object, rows: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim == 3 and len(value) == rows
