"""The layers at which whole sentences are checked: later ones that every row of the batch left its mark on."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Params
from fedspill.inversion.subspace.growing import Check
from fedspill.inversion.subspace.readers import Reader
from fedspill.inversion.subspace.spectrum import Subspace, subspace
from fedspill.inversion.subspace.tokens import INSIDE, Candidates

LOOKED_AT = 6
"""Later layers, from the first on, of which one is chosen."""
DRAWN = 16
"""Sentences of candidates, drawn at random, by which is seen how well a layer tells right from wrong."""
PLAIN = 0.1
"""Share of the best layer's sharpness with which an earlier one, which costs less, will do."""


def open_space(model: Model, reader: Reader, values: Params, eps: float) -> Subspace | None:
    """The space of a reader's rows; None where any row lies in it: of too many tokens, or of too much noise.

    That the width is not filled says little: behind a LayerNorm no row of any token has a mean.
    """
    space = subspace(reader.gradient(values), eps)
    if space.full or not space.rank or space.rank > reader.capacity - 2:
        return None
    any_rows = space.excess(reader.rows(model, _any_sentences(model)))
    return space if float(any_rows.median()) > INSIDE else None


def _any_sentences(model: Model) -> Int[Tensor, "m t"]:
    spec = model.input
    assert isinstance(spec, TokenSpec)
    drawn = torch.randint(spec.vocabulary, (DRAWN, spec.length), generator=stream(0, "sentences", "any"))
    return drawn.to(model.like.device)


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
        space = open_space(model, reader, values, eps)
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
