"""What a filter chain is handed, what it says of itself, and what it is asked."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from fedspill.core.model import Model
from fedspill.core.types import Batch, Params

Unit = Literal["update", "example"]


@dataclass(frozen=True)
class Offer:
    """One update on its way out.

    Attributes:
        change: client minus server, by name: of parameters, and of buffers, where whole numbers stay whole.
        received: what the server had sent, by the same names.
        round: of the federation, from 1.
        model: as received.
        batch: the examples behind the change; for a chain that computes the update itself.
    """

    change: Params
    received: Params
    round: int
    model: Model
    batch: Batch


@dataclass(frozen=True)
class Declared:
    """What the configuration says that the chain does; None where it says nothing.

    Attributes:
        clip: the Euclidean norm to which an update (or an example's gradient) is scaled down.
        noise: standard deviation on every value that leaves, in the update's unit.
        epsilon: of one release.
        delta: of one release.
        multiplier: standard deviation of the noise over the sensitivity.
        unit: which inputs epsilon is about, in words; "" leaves it to the chain's.
        heuristics: names of steps that are no mechanism of differential privacy, though they are taken for one.
        elsewhere: where else noise is said to be added, such as "the server".
    """

    clip: float | None = None
    noise: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    multiplier: float | None = None
    unit: str = ""
    heuristics: tuple[str, ...] = ()
    elsewhere: str = ""


@runtime_checkable
class Chain(Protocol):
    """A configured chain."""

    @property
    def steps(self) -> tuple[str, ...]:
        """What it consists of, for a reader."""
        ...

    @property
    def declared(self) -> Declared:
        """What its configuration says."""
        ...

    @property
    def carries_weights(self) -> bool:
        """Whether it works on weights, so that a change is known no better than weights are rounded."""
        ...

    @property
    def computes(self) -> bool:
        """Whether it computes the update itself, from the batch, so that no other can be pushed through it."""
        ...

    @property
    def unit(self) -> Unit:
        """Whose part in the update is clipped."""
        ...

    def send(self, offer: Offer) -> Params | None:
        """The change that leaves; None if it is withheld.

        Raises:
            Refused: the chain raised an error or returned one instead.
            BadInput: what it returned is no update.
        """
        ...

    def renewed(self) -> "Chain | None":
        """The same configuration, built once more, as at another client; None if it cannot be."""
        ...


class Refused(Exception):
    """The chain did not let an update through, but ended with an error; says which."""


def reason(error: BaseException) -> str:
    """An error in one line."""
    first = (str(error).strip().splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
