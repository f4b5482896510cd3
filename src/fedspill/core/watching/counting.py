"""The bytes of the tensors that work makes, counted while it is done."""

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from fedspill.core.watching.operations import EveryOperation


class Counting(EveryOperation):
    """Follows every storage from the operator that made it to its end.

    Attributes:
        alive: bytes of those that are not at their end.
        peak: the most of them at a time.
        made: bytes of all, those at their end too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak, self.made = 0, 0, 0
        self._known = set[int]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, made=False)  # what an operator is handed and none returned was there before
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._note(tensor, made=True)
        return result

    def _note(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes() if made else 0
        if not key or key in self._known:
            return
        self._known.add(key)
        self.alive += size
        self.made += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._drop, key, size).atexit = False

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
