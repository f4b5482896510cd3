"""Reentrant checkpointing (`torch.utils.checkpoint(..., use_reentrant=True)`) as it is differentiated at a client.

It runs a backward pass of its own, of which `autograd.grad` knows nothing, so the function is called plainly in its
place. Where no argument takes a gradient, as round the first layers, PyTorch gives the parameters inside none: a client
sends nothing of them. Whoever holds the network differentiates by its input all the same.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


class Plainly:
    """In the place of `CheckpointFunction`, for one call of a network.

    Attributes:
        params: of the call.
        z: what the network is given, which takes no gradient at a client.
    """

    def __init__(self, params: Iterable[Tensor], z: Tensor) -> None:
        self.params, self.z = [p for p in params if p.requires_grad], z

    def apply(self, function: Any, preserve: bool, *args: Any) -> Any:
        """The function's own values."""
        if not self.params or not torch.is_grad_enabled() or self._take_gradients(args):
            return function(*args)
        with _Constant(self.params):
            return function(*args)

    def _take_gradients(self, args: tuple[Any, ...]) -> bool:
        """Whether one of the arguments depends on a parameter."""
        given = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
        if not self.z.requires_grad:
            return bool(given)
        return _reaches(given, self.params, self.z)


def _reaches(given: list[Tensor], params: list[Tensor], z: Tensor) -> bool:
    ends, start = {get_gradient_edge(p).node for p in params}, get_gradient_edge(z).node
    waiting, seen = [get_gradient_edge(a).node for a in given], set[Node]()
    while waiting:
        node = waiting.pop()
        if node in ends:
            return True
        if node is not start and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions if following is not None]
    return False


class _Constant(TorchFunctionMode):
    """Inside, these parameters are constants."""

    def __init__(self, params: list[Tensor]) -> None:
        super().__init__()
        self.constants = {id(p): p.detach() for p in params}

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        args, named = tree_map_only(Tensor, self._constant, (args, dict(kwargs or {})))
        return func(*args, **named)

    def _constant(self, value: Tensor) -> Tensor:
        return self.constants.get(id(value), value)
