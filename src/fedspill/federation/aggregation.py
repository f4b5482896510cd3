"""What reaches the server of several clients' updates."""

from collections.abc import Callable

import torch

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import mean_update
from fedspill.core.model import Model
from fedspill.core.rng import split
from fedspill.core.types import Update
from fedspill.federation.client import Client

Told = Callable[[int, int], None]
"""Examples that the clients have gone through, and all that they will."""


def untold(done: int, total: int) -> None:
    """Nobody listens."""


def collect(model: Model, clients: list[Client], rng: torch.Generator, progress: Told = untold) -> Update | None:
    """The mean of what the clients send: all that a server sees, with plain or with secure aggregation.

    Secure aggregation hides the single updates and lets exactly this through, so both read the same here. None if
    no client sends anything.

    Raises:
        BadInput: the clients hold different numbers of examples (equal weights are assumed).
    """
    sizes, total = {len(c.private) for c in clients}, sum(len(c.private) for c in clients)
    if len(sizes) != 1:
        raise BadInput(f"clients with {sorted(sizes)} examples were got; equal shares are needed")
    share = total // len(clients)
    answers = [
        client.respond(model, generator, lambda n, k=k: progress(k * share + n, total))
        for k, (client, generator) in enumerate(zip(clients, split(rng, len(clients)), strict=True))
    ]
    sent = [u for u in answers if u is not None]
    return mean_update(sent) if sent else None
