"""One call of a module with given parameters and buffers, which leaves no trace in the module.

Parameters are never put back: whoever evaluates a part of the network once more in the backward pass (gradient
checkpointing, reversible layers, hooks) sees those of the call.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.module.reentrant import Plainly
from fedspill.core.module.twins import Twins, instance

_readers: WeakSet[nn.Module] = WeakSet()
"""Modules that were seen not to write into their input, so that they need no copy of it."""


def called(
    module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], z: Tensor
) -> tuple[Any, dict[str, Tensor]]:
    """What the module returns, and its buffers afterwards; nothing that is passed in is written to.

    Args:
        z: (n, ...).

    Raises:
        BadInput: the network writes into its input in some calls only.
    """
    given = {**params, **{k: v.clone() for k, v in buffers.items()}}
    slots = _slots(module)
    twins = instance(module, {id(s.held): given[s.name] for s in reversed(slots) if s.name in given})
    entering = z if module in _readers else z.clone()
    version = entering._version
    plainly = _replaced(torch.utils.checkpoint, CheckpointFunction=Plainly(params.values(), entering))
    with plainly, _replaced(functional, hardsigmoid=_hardsigmoid), _lent(slots, twins):
        output = twins.root(entering)
    _note_writing(module, entering is z, entering._version != version)
    return output, {k: v for k, v in _buffers_of(slots, twins) if k in buffers}


class _Slot(NamedTuple):
    """A place in the table of a layer, with the tensor that it holds.

    Attributes:
        table: "_parameters" or "_buffers".
    """

    layer: nn.Module
    table: str
    key: str
    name: str
    held: Tensor


def _slots(module: nn.Module) -> list[_Slot]:
    return [
        _Slot(layer, table, key, f"{prefix}.{key}" if prefix else key, held)
        for prefix, layer in module.named_modules()
        for table in ("_parameters", "_buffers")
        for key, held in layer.__dict__[table].items()
        if held is not None
    ]


@contextmanager
def _lent(slots: list[_Slot], twins: Twins) -> Generator[None]:
    """Inside, the module itself holds what its twin does: objects that are no modules, and hold layers, see those."""
    try:
        for slot in slots:
            slot.layer.__dict__[slot.table][slot.key] = twins.made.get(id(slot.held), slot.held)
        yield
    finally:
        for slot in slots:
            slot.layer.__dict__[slot.table][slot.key] = slot.held


def _buffers_of(slots: list[_Slot], twins: Twins) -> Iterator[tuple[str, Tensor]]:
    for slot in slots:
        if slot.table == "_buffers":
            now = twins.made[id(slot.layer)].__dict__["_buffers"].get(slot.key)
            yield slot.name, twins.made[id(slot.held)] if now is None else now


def only_reads(module: nn.Module) -> bool:
    """Whether the module was called and did not write into its input."""
    return module in _readers


def _note_writing(module: nn.Module, handed_over: bool, written: bool) -> None:
    if handed_over and written:
        raise BadInput(
            "the network writes into its input, and not in every call; hand over one that takes a copy first"
        )
    if not written:
        _readers.add(module)


def _no_checkpoint(*args: Any, **kwargs: Any) -> Generator[None]:
    """In the place of what is done before and after a part that is evaluated again."""
    yield


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """The same values as PyTorch's, which has no second derivative."""
    return functional.relu6(input + 3) / 6


@contextmanager
def _replaced(place: ModuleType, **values: Any) -> Generator[None]:
    """Inside, these names of a module of PyTorch's stand for other things, however networks have imported it."""
    kept = {name: getattr(place, name) for name in values}
    try:
        for name, value in values.items():
            setattr(place, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(place, name, value)


@contextmanager
def without_checkpoints() -> Generator[None]:
    """Inside, nothing is left to be evaluated again in the backward pass, and all can be differentiated twice."""
    place = torch.utils.checkpoint
    plainly = _replaced(
        place, CheckpointFunction=Plainly((), torch.empty(0)), _checkpoint_without_reentrant_generator=_no_checkpoint
    )
    with plainly, _replaced(functional, hardsigmoid=_hardsigmoid):
        yield
