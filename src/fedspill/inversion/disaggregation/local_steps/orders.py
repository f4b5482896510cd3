"""Which examples each local step takes, and which other orders there might be."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from jaxtyping import Int
from torch import Tensor

from fedspill.core.local_training.protocol import FedAvg, Rows
from fedspill.core.local_training.update import equal_shares

Part = tuple[int, ...]
"""Numbers of the examples of a mini-batch."""
Step = tuple[Part, ...]
"""Mini-batches of a step; one, unless gradients are accumulated."""


@dataclass(frozen=True)
class Order:
    """The mini-batches of every step of every client.

    Attributes:
        clients: by client and step.
        epochs: of each client.
    """

    clients: tuple[tuple[Step, ...], ...]
    epochs: int

    @classmethod
    def of(cls, training: FedAvg, examples: int, clients: int) -> "Order":
        """The one in which clients of the protocol take consecutive shares of so many examples.

        Raises:
            BadInput: they cannot be shared out equally.
        """
        steps = list[tuple[Step, ...]]()
        for number, share in enumerate(equal_shares(examples, clients)):
            own = training if clients == 1 else training.of_client(number)
            batches = own.batches(share.stop - share.start)
            steps.append(tuple(tuple(_shifted(rows, share) for rows in step) for step in batches))
        return cls(tuple(steps), training.epochs)

    def used(self) -> set[int]:
        """Numbers of the examples that are in some step."""
        return {k for client in self.clients for step in client for part in step for k in part}

    def swapped(self, one: int, other: int) -> "Order":
        """With two examples in each other's place, in all epochs."""
        return Order(tuple(tuple(_exchanged(s, one, other) for s in client) for client in self.clients), self.epochs)

    def swapped_in(self, client: int, epoch: int, one: int, other: int) -> "Order":
        """With two examples of a client in each other's place in one epoch."""
        steps = self.clients[client]
        length = len(steps) // self.epochs
        mine = range(epoch * length, (epoch + 1) * length)
        steps = tuple(_exchanged(s, one, other) if k in mine else s for k, s in enumerate(steps))
        return Order((*self.clients[:client], steps, *self.clients[client + 1 :]), self.epochs)

    def canonical(self) -> "Order":
        """With each mini-batch sorted: equal orders give equal updates."""
        steps = tuple(tuple(tuple(tuple(sorted(p)) for p in step) for step in client) for client in self.clients)
        return Order(steps, self.epochs)

    def members(self, client: int) -> list[int]:
        """Numbers of a client's examples."""
        return sorted({k for step in self.clients[client] for part in step for k in part})


def _shifted(rows: Rows, share: slice) -> Part:
    numbers = range(share.stop - share.start)
    return tuple(share.start + k for k in (numbers[rows] if isinstance(rows, slice) else rows))


def _exchanged(step: Step, one: int, other: int) -> Step:
    place = {one: other, other: one}
    return tuple(tuple(place.get(k, k) for k in part) for part in step)


@dataclass(frozen=True)
class Freedom:
    """What is open of an order.

    Attributes:
        places: labels are not told in their order, so that any two examples may be in each other's place; else only
            two of one class, which the equations of the first order cannot tell apart.
        epochs: each epoch of a client goes through its examples in an order of its own that is not known.
    """

    places: bool
    epochs: bool


def neighbours(order: Order, labels: Int[Tensor, " n"], free: Freedom) -> Iterator[Order]:
    """Orders that might be as well, with two examples in each other's place; none of equal updates twice."""
    classes, met = labels.tolist(), {order.canonical()}
    pairs = list(combinations(sorted(order.used()), 2))
    tries = [order.swapped(a, b) for a, b in pairs if free.places or classes[a] == classes[b]]
    if free.epochs:
        for client in range(len(order.clients)):
            mine = list(combinations(order.members(client), 2))
            tries += [order.swapped_in(client, e, a, b) for e in range(order.epochs) for a, b in mine]
    for tried in tries:
        if tried.canonical() not in met:
            met.add(tried.canonical())
            yield tried
