"""A module's structure made anew: its own attributes, the same code.

`copy.deepcopy` refuses tensors with a history (weight_norm, spectral_norm, a kept feature map), and keeps functions
that close over layers of the original. Whatever refers to a layer or a parameter of the module refers to that of the
twin: entries of lists and mappings, bound methods, partial functions, closures.
"""

import copy
import types
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedspill.core.module.wrappers import inside

PLAIN = frozenset((int, float, bool, str, bytes, complex, type(None), torch.dtype, torch.device, torch.Size, type))
"""Of attributes that cannot change, nor refer to anything that can."""
TABLES = ("_parameters", "_buffers", "_modules")
HOOKS = frozenset(
    name for name in nn.Module().__dict__ if name.endswith(("hooks", "hooks_with_kwargs", "_always_called"))
)
NAMES = "_non_persistent_buffers_set"
COMPILED = "_compiled_call_impl"
OWN = frozenset(nn.Module().__dict__)
"""Attributes that every module has; those of `TABLES` are made anew in their own way."""


def copied(module: nn.Module, values: Mapping[str, Tensor] | None = None) -> nn.Module:
    """An independent copy with tensors of its own, which keeps ties, and hooks.

    Args:
        values: of parameters and buffers, which the copy holds instead of those of the module; parameters among them
            take no gradient.
    """
    values = values or {}
    named = [*module.named_parameters(), *module.named_buffers()]
    made: dict[int, Any] = {id(old): _valued(old, values[k]) if k in values else _cloned(old) for k, old in named}
    return Twins(module, made, deep=True).root


def instance(module: nn.Module, made: dict[int, Any]) -> "Twins":
    """Twins for one call: other tensors in tables and attributes than `made` has are cloned, or kept in tables.

    Args:
        made: what stands for a tensor, by the tensor's `id`.
    """
    return Twins(module, made, deep=False)


def _valued(old: Tensor, value: Tensor) -> Tensor:
    value = value.detach().clone()
    return nn.Parameter(value, False) if isinstance(old, nn.Parameter) else value


def _cloned(tensor: Tensor) -> Tensor:
    if is_lazy(tensor):
        return copy.deepcopy(tensor)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().clone(), tensor.requires_grad)
    return tensor.detach().clone()


class Twins:
    """Twins of a module and of all modules inside it.

    Attributes:
        made: the twin of an object, by the object's `id`.
    """

    def __init__(self, module: nn.Module, made: dict[int, Any], *, deep: bool) -> None:
        self.made, self.deep = made, deep
        self._kept: list[object] = []
        layers = [layer for layer in module.modules() if not deep or inside(layer) is None]
        for layer in layers:
            self.made[id(layer)] = object.__new__(type(layer))
        if deep:
            self._pass_wrappers(module)
        for layer in layers:
            self._fill(layer, self.made[id(layer)].__dict__)
        self.root: nn.Module = self.made[id(module)]

    def _pass_wrappers(self, module: nn.Module) -> None:
        """What stands for a wrapper is the twin of what it holds."""
        for layer in reversed(list(module.modules())):
            held = inside(layer)
            if held is not None:
                self.made[id(layer)] = self.made[id(held)]

    def _fill(self, layer: nn.Module, twin: dict[str, Any]) -> None:
        twin.update(layer.__dict__)
        for name in TABLES:
            twin[name] = {k: self.made.get(id(v), v) for k, v in twin[name].items()}
        twin[NAMES] = set(twin[NAMES])
        for name in HOOKS if self.deep else ():
            twin[name] = self.of(twin[name])
        for name in twin.keys() - OWN:
            value = twin[name]
            if type(value) not in PLAIN and not _is_plain_tuple(value):
                twin[name] = self.of(value)
        if COMPILED in twin:
            twin[COMPILED] = None
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            twin["sparse"] = False  # the same gradient, in the form in which updates are compared

    def of(self, value: Any) -> Any:
        """What stands for an attribute's value."""
        if type(value) in PLAIN:
            return value
        if id(value) in self.made:
            return self.made[id(value)]
        new = self._new(value)
        self.made[id(value)] = new
        self._kept.append(value)  # so that its id stays its own
        return new

    def _new(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.detach().clone() if self.deep else value.clone()
        if isinstance(value, list | tuple | dict | set):
            return self._container(cast("Any", value))
        if isinstance(value, types.MethodType):
            return types.MethodType(value.__func__, self.of(value.__self__))
        if isinstance(value, partial):
            bound = cast("partial[Any]", value)
            return partial(self.of(bound.func), *map(self.of, bound.args), **self.of(bound.keywords))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        return self._object(value)

    def _container(self, value: Any) -> Any:
        kind = type(value)
        if kind in (list, tuple, set):
            return kind(self.of(v) for v in value)
        if kind is dict or kind is OrderedDict:
            return kind((k, self.of(v)) for k, v in value.items())
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return kind(*map(self.of, value))
        return self._object(value)

    def _function(self, value: types.FunctionType) -> Callable[..., Any]:
        """The function with twins in its closure and defaults; itself where neither holds anything of the module."""
        cells, given = [_content(cell) for cell in value.__closure__ or ()], value.__defaults__ or ()
        twins = [self.made.get(id(content), content) for content in cells]
        defaults = tuple(self.made.get(id(default), default) for default in given)
        if all(a is b for a, b in zip([*cells, *given], [*twins, *defaults], strict=True)):
            return value
        triples = zip(value.__closure__ or (), cells, twins, strict=True)
        closure = tuple(cell if old is new else types.CellType(new) for cell, old, new in triples)
        new = types.FunctionType(value.__code__, value.__globals__, value.__name__, defaults, closure)
        new.__kwdefaults__ = value.__kwdefaults__
        new.__dict__.update(value.__dict__)
        return new

    def _object(self, value: Any) -> Any:
        """Another class's object: copied with what it refers to where it can be, else shared."""
        if isinstance(value, nn.Module):  # one that the module does not know of as a layer
            return Twins(value, self.made, deep=self.deep).root
        if not self.deep:
            return value
        try:
            return copy.deepcopy(value, self.made)
        except Exception:  # locks, files, generators, tensors with a history: anything may be held
            return value


def _is_plain_tuple(value: object) -> bool:
    return type(value) is tuple and PLAIN.issuperset(map(type, cast("tuple[object, ...]", value)))


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet assigned
        return None
