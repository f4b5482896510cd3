"""One call of a module with given parameters and buffers, which leaves no trace in the module.

Parameters are never put back: whoever evaluates a part of the network once more in the backward pass (gradient
checkpointing, reversible layers, hooks) sees those of the call.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call

from fedspill.core.errors import BadInput
from fedspill.core.module.twins import instance

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
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    runner = _Runner(module, {id(held[k]): v for k, v in given.items() if k in held})
    entering = z if module in _readers else z.clone()
    version = entering._version
    with _replaced(CheckpointFunction=_Plainly):
        output = functional_call(runner, {f"module.{k}": v for k, v in given.items()}, (entering,))
    _note_writing(module, entering is z, entering._version != version)
    after = dict(runner.ran[0].named_buffers())
    return output, {k: after.get(k, given[k]) for k in buffers}


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


class _Runner(nn.Module):
    """Calls a twin of the module.

    Objects that are no modules, and that hold layers, see the module itself: it has the given tensors during the call.
    """

    def __init__(self, module: nn.Module, made: Mapping[int, Tensor]) -> None:
        super().__init__()
        self.module, self.made = module, made
        self.ran: tuple[nn.Module, ...] = ()

    def forward(self, z: Tensor) -> Any:
        """What the module returns."""
        self.ran = (instance(self.module, self.made),)
        return self.ran[0](z)


class _Plainly:
    """In the place of checkpointing that runs a backward pass of its own, of which `autograd.grad` knows nothing."""

    @staticmethod
    def apply(function: Any, preserve: bool, *args: Any) -> Any:
        """The function's own values."""
        return function(*args)


def _no_checkpoint(*args: Any, **kwargs: Any) -> Generator[None]:
    """In the place of what is done before and after a part that is evaluated again."""
    yield


@contextmanager
def _replaced(**values: Any) -> Generator[None]:
    """Inside, these names of `torch.utils.checkpoint` stand for other things, however networks have imported it."""
    place = torch.utils.checkpoint
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
    """Inside, nothing is left to be evaluated again in the backward pass."""
    with _replaced(CheckpointFunction=_Plainly, _checkpoint_without_reentrant_generator=_no_checkpoint):
        yield
