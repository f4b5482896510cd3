"""Clients as a server simulates them: its own examples, the real clients' protocol, and draws of its own."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from fedspill.core.errors import BadInput
from fedspill.core.local_training.draws import with_draws
from fedspill.core.local_training.protocol import LocalTraining
from fedspill.core.model import Model
from fedspill.core.rng import split
from fedspill.core.roles import Stages
from fedspill.core.types import Batch, Update
from fedspill.federation.aggregation import collect
from fedspill.federation.client import Client
from fedspill.federation.rounds import weighted


@dataclass(frozen=True)
class Simulator:
    """What a server receives of examples that it hands to clients of its own; it holds nothing of the real ones.

    Attributes:
        sent: the model that the real clients received, one for all.
        sizes: examples of each client.
        training: the protocol; its draws are used where they are known, and drawn anew where they are not.
        defences: what the clients apply, as far as the server knows.
        micro_batch: examples that a client holds in memory at a time; None is all.
        known_draws: the server knows what the real clients drew while they trained.
    """

    sent: Model
    sizes: tuple[int, ...]
    training: LocalTraining
    defences: tuple[Stages, ...] = ()
    micro_batch: int | None = None
    known_draws: bool = False

    def __call__(self, batch: Batch, rng: torch.Generator) -> Update | None:
        """The mean of what the clients send, weighted by their examples; None if all withhold.

        Args:
            batch: as many examples as all clients hold together, those of the first client first.
            rng: of what clients and defences draw.

        Raises:
            BadInput: another number of examples.
        """
        if len(batch) != sum(self.sizes):
            raise BadInput(f"{len(batch)} examples were got; the clients that are simulated hold {sum(self.sizes)}")
        own, theirs = split(rng, 2)
        drawn = self.training.draws is not None and not self.known_draws
        clients = list(self._clients(batch, with_draws(self.training, own) if drawn else self.training))
        if len(set(self.sizes)) == 1:
            return collect(self.sent, clients, theirs)
        answers = [
            (len(client.private), client.respond(self.sent, stream))
            for client, stream in zip(clients, split(theirs, len(clients)), strict=True)
        ]
        sent = [(n, update) for n, update in answers if update is not None]
        return weighted(sent) if sent else None

    def _clients(self, batch: Batch, training: LocalTraining) -> Iterator[Client]:
        first = 0
        for number, size in enumerate(self.sizes):
            own = training if len(self.sizes) == 1 else training.of_client(number)
            yield Client(batch[first : first + size], own, self.defences, self.micro_batch)
            first += size
