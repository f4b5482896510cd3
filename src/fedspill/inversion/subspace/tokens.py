"""Which tokens stand where: those whose row, in front of the first attention, lies in its gradient's space."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.inversion.subspace.calls import token_lookups
from fedspill.inversion.subspace.readers import Reader
from fedspill.inversion.subspace.spectrum import Subspace

INSIDE = 3.0
"""`Subspace.excess` up to which a row counts as inside; that of rows that are is 1, give or take a third."""
NEAR = 30.0
"""The same, up to which a row is worth a try while too few are inside."""
MOST = 256
"""Tokens that are kept at a position."""
CHUNK = 2**22
"""Numbers of a table of rows that are held at a time, by the width of the layer."""
DENSE = 0.01
"""Share of zeros in an embedding's rows from which they were cut away on the update's way."""


@dataclass(frozen=True)
class Candidates:
    """Tokens by position, the likeliest first.

    Attributes:
        tokens: of each position.
        excess: theirs, see `Subspace.excess`.
    """

    tokens: tuple[Int[Tensor, " _"], ...]
    excess: tuple[Float[Tensor, " _"], ...]


def candidates(model: Model, reader: Reader, space: Subspace, ids: Int[Tensor, " v"], wanted: int) -> Candidates:
    """The tokens among `ids` that stand at each position in one sentence at least.

    Args:
        model: as sent.
        reader: of single tokens.
        space: of its gradient.
        ids: the tokens that may be there.
        wanted: sentences; while fewer tokens are inside, the nearest others come along.
    """
    assert isinstance(model.input, TokenSpec)
    length, size = model.input.length, max(1, CHUNK // (model.input.length * reader.width))
    parts = [space.excess(reader.rows(model, part[:, None].expand(-1, length))) for part in ids.split(size)]
    excess = torch.cat(parts).T
    kept = [_nearest(row, wanted) for row in excess]
    return Candidates(tuple(ids[k] for k in kept), tuple(row[k] for row, k in zip(excess, kept, strict=True)))


def _nearest(excess: Float[Tensor, " v"], wanted: int) -> Int[Tensor, " k"]:
    order = excess.argsort()[:MOST]
    inside = int((excess[order] <= INSIDE).sum())
    near = int((excess[order] <= NEAR).sum())
    return order[: max(inside, min(near, wanted))]


def tokens_that_moved(model: Model, values: Params, probes: Int[Tensor, "n t"]) -> Int[Tensor, " v"]:
    """Tokens that may be in the sentences: all, or, of an embedding that was sent, those whose rows have a gradient.

    Noise moves every row, and a sparsified update lacks some; neither narrows the choice.

    Args:
        model: as sent.
        values: of the update.
        probes: sentences to watch the network with.
    """
    assert isinstance(model.input, TokenSpec)
    every = torch.arange(model.input.vocabulary, device=model.like.device)
    for lookup in token_lookups(model, probes):
        rows = values.get(lookup.name)
        if rows is None or len(rows) < len(every):
            continue
        moved = rows[: len(every)].abs().amax(1) > 0
        if bool((rows[: len(every)][moved] == 0).double().mean() > DENSE) or not bool(moved.any()):
            continue
        if 0 <= lookup.padding < len(every):
            moved[lookup.padding] = True
        every = every[moved[every]]
    return every


def padding_token(model: Model, probes: Int[Tensor, "n t"]) -> int | None:
    """The token that an embedding holds back from training, which fills sentences up; None if there is none."""
    return next((x.padding for x in token_lookups(model, probes) if x.padding >= 0), None)
