"""Pairs to learn from: batches of public examples, and the updates that simulated clients send of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.knowledge import Simulate
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Update

HELD_OUT = 0.1
"""Share of the public examples that nothing is learned from."""
LEAST = 8
"""Public examples below which there is nothing to learn."""
VIEWS = 10
"""Most pairs that one public example is in."""
FEWEST_HELD = 32
MOST_HELD = 500
"""Pairs of held-out examples, a tenth of the others within these."""


@dataclass(frozen=True)
class Pairs:
    """Updates as features, with the encoded examples behind them.

    Attributes:
        features: one row per update.
        targets: of each update's n examples, flat.
    """

    features: Float[Tensor, "m f"]
    targets: Float[Tensor, "m n d"]

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class Public:
    """Public examples in two parts, drawn in batches of n.

    Attributes:
        examples: to learn from.
        held_out: to judge by; none of them is among the others.
        count: n.
        labels: that every batch is given; None leaves the examples their own.
        mirrored: half of the examples, drawn anew for each batch, are mirrored; of images only.
        seed: of all draws.
    """

    examples: Batch
    held_out: Batch
    count: int
    labels: Tensor | None
    mirrored: bool
    seed: int

    @classmethod
    def of(
        cls,
        public: Batch,
        count: int,
        spec: InputSpec,
        seed: int,
        *,
        labels: Tensor | None = None,
        mirror: bool = False,
    ) -> "Public":
        """Public examples parted at random.

        Raises:
            NotApplicable: there are too few.
        """
        held = max(count, round(HELD_OUT * len(public)))
        if len(public) < LEAST or len(public) - held < count:
            raise NotApplicable(
                f"{len(public)} public examples were granted; {max(LEAST, 2 * count)} are the least from which an"
                f" inversion of updates of {count} can be learned"
            )
        order = torch.randperm(len(public), generator=stream(seed, "held out")).to(public.labels.device)
        mirrored = mirror and isinstance(spec, ImageSpec)
        return cls(public[order[held:]], public[order[:held]], count, labels, mirrored, seed)

    def most(self, wanted: int) -> int:
        """Pairs to learn from: those that are wanted, or as many as there are views of examples."""
        return max(1, min(wanted, VIEWS * len(self.examples) // self.count))

    def most_held(self, wanted: int) -> int:
        """Pairs to judge by."""
        usual = min(max(FEWEST_HELD, round(HELD_OUT * self.most(wanted))), MOST_HELD)
        return max(1, min(usual, VIEWS * len(self.held_out) // self.count))

    def batches(self, *, held_out: bool) -> Iterator[Batch]:
        """Batches without end: every example once, then all of them in another order."""
        source, name = (self.held_out, "held-out order") if held_out else (self.examples, "order")
        done, epoch = 0, 0
        while True:
            order = torch.randperm(len(source), generator=stream(self.seed, name, epoch)).to(source.labels.device)
            for first in range(0, len(order) - self.count + 1, self.count):
                yield self._made(source[order[first : first + self.count]], name, done)
                done += 1
            epoch += 1

    def _made(self, batch: Batch, name: str, number: int) -> Batch:
        inputs = batch.inputs
        if self.mirrored:
            drawn = torch.rand((len(inputs), 1, 1, 1), generator=stream(self.seed, "mirror", name, number)) < 0.5
            inputs = torch.where(drawn.to(inputs.device), inputs.flip(3), inputs)
        return Batch(inputs, batch.labels if self.labels is None else self.labels)

    def updates(self, simulate: Simulate, *, held_out: bool) -> Iterator[tuple[Batch, Update]]:
        """Batches with their updates, without end.

        Raises:
            NotApplicable: the clients cannot be simulated on these examples, or withhold every update.
        """
        for number, batch in enumerate(self.batches(held_out=held_out)):
            yield batch, _sent(simulate, batch, stream(self.seed, "client", held_out, number))


def _sent(simulate: Simulate, batch: Batch, rng: torch.Generator) -> Update:
    try:
        update = simulate(batch, rng)
    except (BadInput, RuntimeError, IndexError, ValueError) as error:  # of anyone's network, loss or defence
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise NotApplicable(f"a client that is simulated on public examples fails: {reason}") from error
    if update is None:
        raise NotApplicable("a simulated client's defences withhold its update, so that there is nothing to learn from")
    return update


def gathered(
    updates: Iterator[tuple[Batch, Update]],
    most: int,
    spec: InputSpec,
    features: Callable[[Update], Float[Tensor, " f"]],
    ended: Callable[[int], bool],
) -> Pairs:
    """As many pairs, or those that the time allows; at least one.

    Args:
        updates: to take them from.
        most: how many.
        spec: encodes the examples.
        features: of an update.
        ended: told how many there are; whether the time is up.
    """
    rows, targets = list[Tensor](), list[Tensor]()
    while len(rows) < most:
        batch, update = next(updates)
        rows.append(features(update))
        targets.append(spec.encode(batch.inputs).detach().flatten(1).float())
        if ended(len(rows)):
            break
    return Pairs(torch.stack(rows), torch.stack(targets))
