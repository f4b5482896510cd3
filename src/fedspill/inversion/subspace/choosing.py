"""The layers at which whole sentences are checked: later ones that every row of the batch left its mark on."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.subspace.growing import Check
from fedspill.inversion.subspace.readers import Reader
from fedspill.inversion.subspace.spectrum import Subspace, subspace
from fedspill.inversion.subspace.tokens import Candidates

LOOKED_AT = 6
"""Later layers, from the first on, of which one is chosen."""
DRAWN = 16
"""Sentences of candidates, drawn at random, by which is seen how well a layer tells right from wrong."""
PLAIN = 0.1
"""Share of the best layer's sharpness with which an earlier one, which costs less, will do."""


def open_space(reader: Reader, values: Params, eps: float) -> Subspace | None:
    """The space of a reader's rows; None where it has no end that shows: too many rows, or too much noise."""
    space = subspace(reader.gradient(values), eps)
    return None if space.full or not space.rank or space.rank > reader.capacity - 2 else space


def check_of(
    model: Model,
    readers: Sequence[Reader],
    values: Params,
    rank: int,
    found: Candidates,
    eps: float,
    rng: torch.Generator,
) -> Check | None:
    """A later layer with as many independent rows as the first; None if there is none.

    Layers of which some rows get no gradient, such as the last ones of a network that reads its answer off one token,
    have fewer.

    Args:
        model: as sent.
        readers: later ones, with weights that were sent.
        values: mean gradients, float64.
        rank: independent rows of the first layer.
        found: tokens by position.
        eps: of the precision in which rows were computed.
        rng: for sentences to try.
    """
    checks = list[Check]()
    anchored = [r for r in readers if r.anchored]
    for reader in (anchored or list(readers))[:LOOKED_AT]:
        space = open_space(reader, values, eps)
        if space is not None and space.rank >= rank:
            checks.append(Check(reader, space))
    if not checks:
        return None
    tried = _drawn(found, rng)
    sharp = [float(check.excess(model, tried).median()) for check in checks]
    return next(check for check, value in zip(checks, sharp, strict=True) if value >= PLAIN * max(sharp))


def _drawn(found: Candidates, rng: torch.Generator) -> Int[Tensor, "m t"]:
    columns = [_any(tokens, rng) for tokens in found.tokens]
    return torch.stack(columns, 1)


def _any(tokens: Int[Tensor, " k"], rng: torch.Generator) -> Int[Tensor, " m"]:
    if not len(tokens):
        return tokens.new_zeros(DRAWN)
    return tokens[torch.randint(len(tokens), (DRAWN,), generator=rng).to(tokens.device)]
