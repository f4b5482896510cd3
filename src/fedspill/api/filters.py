"""`fedspill.filters`: what a client's filter chain does to its update."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from fedspill.api.arguments import check_network
from fedspill.api.vet import as_model, shape_of_images
from fedspill.core.model import Model
from fedspill.core.types import Batch
from fedspill.filtering.chains.loading import chain_of, load_chain
from fedspill.filtering.known import usual_batch, usual_model
from fedspill.filtering.verdict import DELTA, PUSHES, ROUNDS, SECONDS, filtered
from fedspill.report.filtering import Filtering
from fedspill.vetting.own_data import fitting

Function = Callable[[Any], Mapping[str, Any] | None]


def filters(
    chain: str | Function,
    model: Model | nn.Module | None = None,
    *,
    data: Batch | None = None,
    clip: float | int | None = None,
    noise: float | int | None = None,
    rounds: int = ROUNDS,
    delta: float = DELTA,
    pushes: int = PUSHES,
    scope: str | None = None,
    numbers: Literal["torch", "numpy"] = "torch",
    seconds: float | int = SECONDS,
) -> Filtering:
    """Pushes known updates through a client's filter chain: what leaves, what leaks, and what is proven.

    Args:
        chain: a function that takes a mapping of names to tensors, client minus server, and returns one, or None to
            withhold it; a factory of such a function, which is called without arguments; or a name of either, of a
            plan, of NVFlare's `privacy.json`, of Flower's mods or of an Opacus client (see docs/filters.md).
        model: whose update is pushed; None takes a small one with BatchNorm.
        data: the examples behind the update, with labels; None takes one embedded photograph.
        clip: the Euclidean norm that the chain is meant to clip to, in the update's unit.
        noise: the standard deviation that its noise is meant to have, likewise.
        rounds: over which epsilon is composed.
        delta: of all of these together, in (0, 1).
        pushes: of the same update; even, from 4.
        scope: of NVFlare's policy; None takes its default.
        numbers: whether a function is handed tensors or NumPy arrays.
        seconds: for the attacks before the chain, and for those after it; 0 leaves them out.

    Returns:
        What became of every tensor, what was rebuilt before and after, epsilon or the reasons why there is none, and
        what is broken; `exit_code` is 1 if anything is.

    Raises:
        BadInput: the chain cannot be used, or refuses an ordinary update; or a value is out of range.

    Example:
        >>> import fedspill
        >>> done = fedspill.filters(lambda update: update, seconds=0)
        >>> done.privacy.text
        'no differential privacy: no noise'
        >>> done.fates[0].became
        ('passed unchanged',)
    """
    if model is not None:
        check_network(model, "model")
    sent = usual_model() if model is None else as_model(model, shape_of_images(data))
    batch = usual_batch(sent, 1) if data is None else fitting(sent, data)
    if isinstance(chain, str):
        name, loaded = chain, load_chain(chain, sent, scope=scope, numbers=numbers, clip=_number(clip))
    else:
        name = str(getattr(chain, "__name__", type(chain).__name__))
        loaded = chain_of(chain, name, numbers)
    return filtered(
        loaded,
        name,
        sent,
        batch,
        pushes=pushes,
        rounds=rounds,
        delta=delta,
        clip=_number(clip),
        noise_std=_number(noise),
        seconds=float(seconds),
    )


def _number(value: float | int | None) -> float | None:
    return None if value is None else float(value)
