"""Sentences of a network that looks back only, grown token by token: each new row must lie in a later layer's space."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.inversion.subspace.readers import Reader
from fedspill.inversion.subspace.spectrum import Subspace
from fedspill.inversion.subspace.tokens import INSIDE, NEAR, Candidates

WIDTH = 4
"""Prefixes that are kept for each sentence wanted, where more are inside than there can be."""
LEAST = 32
"""Prefixes that are kept at least."""


@dataclass(frozen=True)
class Check:
    """A later layer with its gradient's space."""

    reader: Reader
    space: Subspace

    def excess(self, model: Model, tokens: Int[Tensor, "m t"]) -> Float[Tensor, "m t"]:
        """How far each position's row lies outside; see `Subspace.excess`."""
        return self.space.excess(self.reader.rows(model, tokens))


@dataclass(frozen=True)
class Sentences:
    """Whole sentences that were put together, each once.

    Attributes:
        tokens: of each.
        excess: the root mean square over a sentence's rows, see `Subspace.excess`.
        lengths: tokens that were read of each; what follows is filled up.
    """

    tokens: Int[Tensor, "m t"]
    excess: Float[Tensor, " m"]
    lengths: Int[Tensor, " m"]


def grown(model: Model, check: Check, found: Candidates, wanted: int, padding: int | None) -> Sentences:
    """All sentences of candidates whose every prefix is inside.

    Args:
        model: as sent.
        check: a later layer, none of whose rows depends on later tokens.
        found: tokens by position.
        wanted: sentences, if known, else a guess.
        padding: the token that fills ended sentences up; None takes token 0.
    """
    length, device = len(found.tokens), model.like.device
    fill = 0 if padding is None else padding
    alone = _takes_short(model, check.reader, length)
    prefixes = torch.zeros(1, 0, dtype=torch.long, device=device)
    square = torch.zeros(1, dtype=torch.float64, device=device)
    ended = list[tuple[Tensor, Tensor]]()
    for place, tokens in enumerate(found.tokens):
        longer = _extended(prefixes, tokens)
        given = longer if alone else _filled(longer, length, fill)
        excess = check.excess(model, given)[:, place] if len(longer) else square[:0]
        so_far = square.repeat_interleave(len(tokens)) + excess.square()
        kept = _kept(excess, so_far, wanted)
        parents = kept // max(1, len(tokens))
        dead = torch.ones(len(prefixes), dtype=torch.bool, device=device).index_fill(0, parents, False)
        ended.append((prefixes[dead], square[dead]))
        square, prefixes = so_far[kept], longer[kept]
    return _whole([*ended, (prefixes, square)], length, fill, wanted)


def _extended(prefixes: Int[Tensor, "m p"], tokens: Int[Tensor, " k"]) -> Int[Tensor, "mk q"]:
    before = prefixes.repeat_interleave(len(tokens), 0)
    return torch.cat([before, tokens.repeat(len(prefixes))[:, None]], 1)


def _filled(prefixes: Int[Tensor, "m p"], length: int, fill: int) -> Int[Tensor, "m t"]:
    return torch.cat([prefixes, prefixes.new_full((len(prefixes), length - prefixes.shape[1]), fill)], 1)


def _kept(excess: Float[Tensor, " k"], so_far: Float[Tensor, " k"], wanted: int) -> Int[Tensor, " m"]:
    """Those inside, else as many of the near as are wanted; of too many those whose rows fit best so far."""
    inside = excess <= INSIDE
    few = int(inside.sum()) < wanted
    allowed = (excess <= NEAR if few else inside).nonzero()[:, 0]
    order = allowed[so_far[allowed].argsort()]
    return order[: max(int(inside.sum()), wanted) if few else max(LEAST, WIDTH * wanted)]


def _takes_short(model: Model, reader: Reader, length: int) -> bool:
    """Whether the network takes shorter sentences, to the same rows."""
    tokens = torch.zeros(2, length, dtype=torch.long, device=model.like.device)
    half = max(1, length // 2)
    try:
        short = reader.rows(model, tokens[:, :half])
    except Exception:  # whatever a network says to a length that it was not made for
        return False
    whole = reader.rows(model, tokens)[:, :half]
    return short.shape == whole.shape and torch.allclose(short, whole, rtol=1e-4, atol=1e-5)


def _whole(parts: list[tuple[Tensor, Tensor]], length: int, fill: int, wanted: int) -> Sentences:
    """Sentences of full length first, then as many of the longest others as are missing."""
    parts = [part for part in reversed(parts) if len(part[0]) and part[0].shape[1]]
    tokens = [_filled(prefixes, length, fill) for prefixes, _ in parts]
    lengths = [torch.full_like(square, prefixes.shape[1]).long() for prefixes, square in parts]
    excess = [(square / prefixes.shape[1]).sqrt() for prefixes, square in parts]
    if not parts:
        nothing = torch.zeros(0, dtype=torch.long)
        return Sentences(nothing.view(0, length), nothing.double(), nothing)
    whole = int((torch.cat(lengths) == length).sum())
    kept = max(whole, wanted)
    return Sentences(torch.cat(tokens)[:kept], torch.cat(excess)[:kept], torch.cat(lengths)[:kept])
