"""Which weights multiply which rows: every linear layer's calls in one pass, whoever makes them and however.

Found below PyTorch's own functions, so that a `Linear`, a packed `in_proj_weight` of `MultiheadAttention`, the
transposed weights of GPT-2's own code and plain parameters in a matrix product are one thing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.core.watching.operations import EveryOperation

PRODUCTS = {torch.ops.aten.mm.default: (0, 1), torch.ops.aten.addmm.default: (1, 2)}
"""Products of matrices, by the places of their factors."""


@dataclass(frozen=True)
class Weight:
    """A parameter, or some of its rows, that rows are multiplied by.

    Attributes:
        name: of the parameter.
        across: a row of outputs is `x @ weight`, not `x @ weight.T`.
        first: row of the parameter (column where `across`) at which the part begins.
        size: outputs of the part.
    """

    name: str
    across: bool
    first: int
    size: int

    def part(self, values: Params) -> Float[Tensor, "out d"]:
        """The part, or its gradient, with a row for each output."""
        whole = values[self.name]
        return (whole.T if self.across else whole)[self.first : self.first + self.size]


@dataclass(frozen=True)
class Call:
    """One product of rows with a weight; `rows` are (m, d) as they entered it."""

    weight: Weight
    rows: Float[Tensor, "m d"]


@dataclass(frozen=True)
class Lookup:
    """An embedding of which nothing is known but the rows that were looked up.

    Attributes:
        name: of the parameter.
        padding: the row whose gradient is always 0, or -1.
    """

    name: str
    padding: int


class _Reached(BaseException):
    """All weights that were waited for were called; no `Exception`, as a network may survive these."""


class _Products(EveryOperation):
    def __init__(self, params: Params, awaited: frozenset[Weight] | None) -> None:
        super().__init__()
        self.held = {v.untyped_storage().data_ptr(): (k, v) for k, v in params.items() if v.ndim == 2 and v.numel()}
        self.calls, self.awaited = list[Call](), awaited
        self.lookups = list[tuple[Lookup, Tensor]]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.embedding.default:
            self._note_lookup(*args)
        places = PRODUCTS.get(func)
        if places is not None:
            rows, factor = args[places[0]], args[places[1]]
            weight = self._weight(factor)
            if weight is not None and (self.awaited is None or weight in self.awaited):
                self.calls.append(Call(weight, rows.detach()))
                if self.awaited is not None and self.awaited <= {c.weight for c in self.calls}:
                    raise _Reached
        return func(*args, **(kwargs or {}))

    def _note_lookup(self, table: Tensor, places: Tensor, padding: int = -1, *_: object) -> None:
        name, whole = self.held.get(table.untyped_storage().data_ptr(), ("", None))
        if whole is not None:
            self.lookups.append((Lookup(name, padding), places.detach()))

    def _weight(self, factor: Tensor) -> Weight | None:
        """What a factor (d, out) is of a parameter."""
        name, whole = self.held.get(factor.untyped_storage().data_ptr(), ("", None))
        if whole is None or not whole.is_contiguous():
            return None
        width, offset = whole.shape[1], int(factor.storage_offset() - whole.storage_offset())
        if factor.stride() == (1, width) and factor.shape[0] == width and offset % width == 0:
            return Weight(name, False, offset // width, factor.shape[1])
        if factor.stride() == (width, 1) and factor.shape[0] == whole.shape[0] and offset < width:
            return Weight(name, True, offset, factor.shape[1])
        return None


def linear_calls(model: Model, tokens: Int[Tensor, "n t"], awaited: frozenset[Weight] | None = None) -> list[Call]:
    """The products of one pass, in their order.

    Args:
        model: in its mode; parameters are told by their memory.
        tokens: encoded sentences.
        awaited: the pass ends when all of these were called; None watches all weights to the end.
    """
    return _watched(model, tokens, awaited).calls


def token_lookups(model: Model, tokens: Int[Tensor, "n t"]) -> list[Lookup]:
    """Embeddings that are asked for these tokens, once, and are used for nothing else."""
    seen = _watched(model, tokens, None)
    multiplied = {c.weight.name for c in seen.calls}
    names = [lookup.name for lookup, _ in seen.lookups]
    return [
        lookup
        for lookup, places in seen.lookups
        if names.count(lookup.name) == 1 and lookup.name not in multiplied and _same(places, tokens)
    ]


def is_looked_up(model: Model, name: str, tokens: Int[Tensor, "n t"]) -> bool:
    """Whether rows of this parameter are looked up, whatever else it does."""
    return any(lookup.name == name for lookup, _ in _watched(model, tokens, None).lookups)


def _same(places: Tensor, tokens: Tensor) -> bool:
    return any(torch.equal(places.flatten(), z.flatten()) for z in (tokens, tokens.T))


def _watched(model: Model, tokens: Tensor, awaited: frozenset[Weight] | None) -> _Products:
    # Fused kernels for inference hide their products; none is used where a gradient is asked for.
    params = {k: v.detach().requires_grad_() for k, v in model.params.items()}
    products = _Products(params, awaited)
    try:
        with torch.enable_grad(), products:
            model.logits(params, tokens)
    except _Reached:
        pass
    return products
