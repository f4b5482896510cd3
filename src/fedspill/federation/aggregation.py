"""What reaches the server of several clients' updates."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import mean_update
from fedspill.core.model import Model
from fedspill.core.rng import split
from fedspill.core.roles import ForClient
from fedspill.core.types import Params, Update
from fedspill.federation.client import Client

Told = Callable[[int, int], None]
"""Examples that the clients have gone through, and all that they will."""


def untold(done: int, total: int) -> None:
    """Nobody listens."""


def collect(
    model: Model,
    clients: list[Client],
    rng: torch.Generator,
    progress: Told = untold,
    for_client: ForClient | None = None,
) -> Update | None:
    """The mean of what the clients send: all that a server sees, with plain or with secure aggregation.

    Secure aggregation hides the single updates and lets exactly this through, so both read the same here. None if
    no client sends anything.

    Args:
        model: what all receive.
        clients: numbered in their order.
        rng: of their defences.
        progress: told how far they are.
        for_client: what each receives instead, where the server sends different models.

    Raises:
        BadInput: the clients hold different numbers of examples (equal weights are assumed).
    """
    sizes, total = {len(c.private) for c in clients}, sum(len(c.private) for c in clients)
    if len(sizes) != 1:
        raise BadInput(f"clients with {sorted(sizes)} examples were got; equal shares are needed")
    share = total // len(clients)
    answers = [
        client.respond(for_client(k) if for_client else model, generator, lambda n, k=k: progress(k * share + n, total))
        for k, (client, generator) in enumerate(zip(clients, split(rng, len(clients)), strict=True))
    ]
    sent = [u for u in answers if u is not None]
    return mean_update(sent) if sent else None


def mean_of_answers(answers: Iterable[Update | None]) -> Update | None:
    """The mean of what the same clients sent in several rounds, one after another; a single answer as it is.

    It is taken in float64, so that equal answers have themselves for their mean. None if nothing was ever sent.
    """
    sent = (answer for answer in answers if answer is not None)
    if (first := next(sent, None)) is None:
        return None
    count, values, buffers = 1, _doubled(first.values), _doubled(first.buffers or {})
    for answer in sent:
        count += 1
        values = {k: v + answer.values[k].double() for k, v in values.items()}
        buffers = {k: v + (answer.buffers or {})[k].double() for k, v in buffers.items()}
    mean = {k: (v / count).to(first.values[k].dtype) for k, v in values.items()}
    kept = None if first.buffers is None else {k: (buffers[k] / count).to(v.dtype) for k, v in first.buffers.items()}
    return first if count == 1 else Update(first.kind, mean, kept)


def _doubled(values: Params) -> dict[str, Tensor]:
    return {k: v.double() for k, v in values.items()}
