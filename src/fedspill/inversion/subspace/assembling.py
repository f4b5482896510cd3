"""Sentences of a network that looks both ways: a token here or there moves every row, so whole sentences are judged.

Rows of a sentence that is right but for some tokens lie the nearer to the space the fewer these are, so that choosing
the best token position by position, again and again, mostly ends at a sentence that was there.
"""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from fedspill.core.model import Model
from fedspill.inversion.subspace.growing import Check, Sentences
from fedspill.inversion.subspace.tokens import INSIDE, Candidates

SWEEPS = 12
"""Passes over the positions of a sentence, at most."""


def assembled(
    model: Model,
    check: Check,
    found: Candidates,
    wanted: int,
    padding: int | None,
    rng: torch.Generator,
    *,
    starts: int,
) -> Sentences:
    """Sentences of candidates whose rows are all inside, until every candidate is in one or starts are used up.

    Args:
        model: as sent.
        check: a later layer.
        found: tokens by position; each has at least one.
        wanted: sentences, if known, else a guess.
        padding: the token that fills sentences up, which may leave no trace.
        rng: for the starts.
        starts: for each sentence wanted, at most.
    """
    table = _Table(found, model.like.device)
    right, others = list[tuple[Tensor, float, int]](), list[tuple[Tensor, float, int]]()
    for _ in range(starts * max(1, wanted)):
        if not table.left() or (len(right) >= wanted and not table.left(sure=True)):
            break
        length = table.length(padding, rng)
        tokens = _filled(_descended(model, check, table, table.start(length, rng), padding), table, padding)
        excess = float(check.excess(model, tokens[None])[0, :length].max())
        if excess > INSIDE:
            others.append((tokens, excess, length))
        elif not any(torch.equal(tokens, t) for t, _, _ in right):
            right.append((tokens, excess, length))
            table.cover(tokens)
    others.sort(key=lambda one: one[1])
    every = [*right, *others[: max(0, wanted - len(right))]]
    tokens = torch.stack([t for t, _, _ in every])
    excess = check.space.basis.new_tensor([e for _, e, _ in every])
    return Sentences(tokens, excess, tokens.new_tensor([n for _, _, n in every]))


class _Table:
    """Candidates by position, and which of them are in a sentence that was found."""

    def __init__(self, found: Candidates, device: torch.device) -> None:
        self.tokens = found.tokens
        self.inside = [int((e <= INSIDE).sum()) for e in found.excess]
        self.open = [torch.ones(len(t), dtype=torch.bool, device=device) for t in self.tokens]

    def left(self, *, sure: bool = False) -> bool:
        """Whether candidates are in no sentence yet; `sure`: those that are inside beyond doubt."""
        return any(bool(o[:k].any() if sure else o.any()) for o, k in zip(self.open, self.inside, strict=True))

    def cover(self, tokens: Int[Tensor, " t"]) -> None:
        """These are in a sentence."""
        for place, token in enumerate(tokens):
            self.open[place] &= self.tokens[place] != token

    def length(self, padding: int | None, rng: torch.Generator) -> int:
        """Of a sentence: the whole, or, where sentences may be filled up, where tokens become fewer."""
        sizes = [len(t) for t in self.tokens]
        first = next((i for i, n in enumerate(sizes) if not n), len(sizes))
        fewer = [i for i in range(1, first) if sizes[i] < sizes[i - 1]]
        ends = [first, *(fewer if padding is not None else [])]
        return ends[int(torch.randint(len(ends), (1,), generator=rng))]

    def start(self, length: int, rng: torch.Generator) -> Int[Tensor, " p"]:
        """Tokens drawn from those that are in no sentence, where there are any."""
        return torch.stack([t[_drawn(o, rng)] for t, o in zip(self.tokens[:length], self.open, strict=False)])


def _drawn(open_: Bool[Tensor, " k"], rng: torch.Generator) -> Tensor:
    places = open_.nonzero()[:, 0] if bool(open_.any()) else torch.arange(len(open_), device=open_.device)
    return places[int(torch.randint(len(places), (1,), generator=rng))]


def _filled(tokens: Int[Tensor, "*m p"], table: _Table, padding: int | None) -> Int[Tensor, "*m t"]:
    missing = len(table.tokens) - tokens.shape[-1]
    return torch.cat([tokens, tokens.new_full((*tokens.shape[:-1], missing), padding or 0)], -1)


def _descended(
    model: Model, check: Check, table: _Table, tokens: Int[Tensor, " p"], padding: int | None
) -> Int[Tensor, " p"]:
    """The best token at every position in turn, until nothing changes."""
    length = len(tokens)
    for _ in range(SWEEPS):
        before = tokens
        for place, choices in enumerate(table.tokens[:length]):
            if len(choices) > 1:
                tried = tokens.repeat(len(choices), 1)
                tried[:, place] = choices
                rows = check.reader.rows(model, _filled(tried, table, padding))[:, :length]
                tokens = tried[int(check.space.outside(rows).square().sum(1).argmin())]
        if torch.equal(before, tokens):
            break
    return tokens
