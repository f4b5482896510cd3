"""A chain of the user's own: a function of an update, or a factory that makes one.

The one contract: the function takes a mapping of names to tensors (or to NumPy arrays, as asked), client minus server,
and returns such a mapping, or None to withhold it. `package.module:name` may be the function, or a factory that is
called without arguments and returns it; whatever can be called without arguments is a factory.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.files.contents import as_tensor
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused, Unit, reason

Numbers = Literal["torch", "numpy"]
Function = Callable[[Any], Any]


@dataclass(frozen=True)
class OwnChain:
    """A function of a mapping.

    Attributes:
        name: for a reader.
        function: the chain.
        make: makes it once more.
        numbers: whether the function is handed tensors or arrays.
    """

    name: str
    function: Function
    make: Callable[[], Function] | None = None
    numbers: Numbers = "torch"
    declared: Declared = Declared()
    carries_weights: bool = False
    computes: bool = False
    unit: Unit = "update"

    @property
    def steps(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def send(self, offer: Offer) -> Params | None:
        """See `Chain`."""
        given = {k: handed(v, self.numbers) for k, v in offer.change.items()}
        try:
            returned = self.function(given)
        except Exception as error:  # of the user's code
            raise Refused(reason(error)) from error
        return None if returned is None else as_change(returned, offer, self.name)

    def renewed(self) -> Chain | None:
        """See `Chain`."""
        return None if self.make is None else OwnChain(self.name, self.make(), self.make, self.numbers)


def handed(value: Tensor, numbers: Numbers) -> Any:
    """A copy that the chain may write to; see `array_of`."""
    return value.detach().clone() if numbers == "torch" else array_of(value)


def array_of(value: Tensor) -> NDArray[Any]:
    """A copy as an array, which has no dimension where the tensor has none.

    Raises:
        BadInput: NumPy has no such type.
    """
    try:
        return np.array(value.detach().cpu().numpy(), order="C")
    except TypeError as error:
        kind = str(value.dtype).removeprefix("torch.")
        raise BadInput(f"NumPy has no numbers of type {kind}; a network in float32 is needed") from error


def as_change(returned: object, offer: Offer, name: str) -> Params:
    """What a chain returned, as tensors on the device of what it was handed.

    Raises:
        BadInput: it is no mapping, or holds something else than numbers.
    """
    if not isinstance(returned, Mapping):
        raise BadInput(
            f"chain {name!r} returned a {type(returned).__name__}; a mapping of names to tensors or arrays is needed,"
            " or None to withhold"
        )
    return {str(k): _tensor(v, offer, f"chain {name!r}: {k!r}") for k, v in returned.items()}


def _tensor(value: Any, offer: Offer, where: str) -> Tensor:
    if not isinstance(value, Tensor) and not hasattr(value, "dtype"):
        raise BadInput(f"{where} is a {type(value).__name__}; a tensor or an array is needed")
    array = value if isinstance(value, Tensor) else np.asarray(value)  # numpy's own scalars too
    return as_tensor(array, where).to(next(iter(offer.change.values())).device)


def made(factory: object, name: str) -> tuple[Any, Callable[[], Any] | None]:
    """What a name's object stands for: itself, or what it makes when it can be called without arguments.

    Raises:
        BadInput: the factory fails.
    """
    if not callable(factory) or not _is_factory(factory):
        return factory, None

    def make() -> Any:
        try:
            return factory()
        except Exception as error:  # of the user's code
            raise BadInput(f"chain {name!r}: the factory failed with {reason(error)}") from error

    return make(), make


def _is_factory(function: Callable[..., Any]) -> bool:
    try:
        inspect.signature(function).bind()
    except (TypeError, ValueError):
        return False
    return True
