"""What reaches the server of several clients' updates."""

import torch

from fedspill.core.errors import BadInput
from fedspill.core.local_update import mean_update
from fedspill.core.model import Model
from fedspill.core.types import Update
from fedspill.federation.client import Client


def collect(model: Model, clients: list[Client], rng: torch.Generator) -> Update | None:
    """The mean of what the clients send: all that a server sees, with plain or with secure aggregation.

    Secure aggregation hides the single updates and lets exactly this through, so both read the same here. None if
    no client sends anything.

    Raises:
        BadInput: the clients hold different numbers of examples (equal weights are assumed).
    """
    sizes = {len(c.private) for c in clients}
    if len(sizes) != 1:
        raise BadInput(f"clients with {sorted(sizes)} examples were got; equal shares are needed")
    sent = [u for u in (client.respond(model, rng) for client in clients) if u is not None]
    return mean_update(sent) if sent else None
