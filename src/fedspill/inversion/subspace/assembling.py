"""Sentences of a network that looks both ways: a token here or there moves every row, so whole sentences are judged.

Rows of a sentence that is right but for some tokens lie the nearer to the space the fewer these are, so that choosing
the best token position by position, again and again, mostly ends at a sentence that was there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
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
    right, others = list[_Tried](), list[_Tried]()
    for number in range(starts * max(1, wanted)):
        if not table.left() or _explained(model, check, right):
            break
        length = table.length(padding, rng)
        start = table.start(length, rng)
        choices = table.choices(length, fresh=number % 2 == 0)
        tokens = _filled(
            _descended(model, check, choices, start, len(table.tokens), padding), len(table.tokens), padding
        )
        tried = _Tried(tokens, check.excess(model, tokens[None])[0, :length])
        if not tried.inside:
            others.append(tried)
        elif not any(torch.equal(tokens, r.tokens) for r in right):
            right.append(tried)
            table.cover(tokens)
    others.sort(key=lambda one: one.size)
    every = [*right, *others[: max(0, wanted - len(right))]]
    tokens = torch.stack([one.tokens for one in every])
    excess = check.space.basis.new_tensor([one.size for one in every])
    return Sentences(tokens, excess, tokens.new_tensor([len(one.excess) for one in every]))


@dataclass(frozen=True)
class _Tried:
    """Where a descent ended, with how far the rows of what is not filled up lie outside."""

    tokens: Int[Tensor, " t"]
    excess: Float[Tensor, " p"]

    @property
    def inside(self) -> bool:
        return bool((self.excess <= INSIDE).all())

    @property
    def size(self) -> float:
        return float(self.excess.square().mean().sqrt())


def _explained(model: Model, check: Check, right: list[_Tried]) -> bool:
    """Whether the sentences that were found have as many different rows as the check's gradient shows."""
    if not right:
        return False
    rows = check.reader.rows(model, torch.stack([one.tokens for one in right]))
    kept = torch.cat([r[: len(one.excess)] for r, one in zip(rows, right, strict=True)])
    return len(torch.unique(kept, dim=0)) >= check.space.rank


class _Table:
    """Candidates by position, and which of them are in a sentence that was found."""

    def __init__(self, found: Candidates, device: torch.device) -> None:
        self.tokens = found.tokens
        self.open = [torch.ones(len(t), dtype=torch.bool, device=device) for t in self.tokens]

    def left(self) -> bool:
        """Whether candidates are in no sentence yet."""
        return any(bool(o.any()) for o in self.open)

    def choices(self, length: int, *, fresh: bool) -> list[Int[Tensor, " _"]]:
        """Tokens to choose from at each position; `fresh`: only those in no sentence, where there are any."""
        pairs = zip(self.tokens[:length], self.open, strict=False)
        return [t[o] if fresh and bool(o.any()) else t for t, o in pairs]

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


def _filled(tokens: Int[Tensor, "*m p"], length: int, padding: int | None) -> Int[Tensor, "*m t"]:
    missing = length - tokens.shape[-1]
    return torch.cat([tokens, tokens.new_full((*tokens.shape[:-1], missing), padding or 0)], -1)


def _descended(
    model: Model,
    check: Check,
    choices: list[Int[Tensor, " _"]],
    tokens: Int[Tensor, " p"],
    length: int,
    padding: int | None,
) -> Int[Tensor, " p"]:
    """The best token at every position in turn, until nothing changes."""
    for _ in range(SWEEPS):
        before = tokens
        for place, some in enumerate(choices):
            if len(some) > 1:
                tried = tokens.repeat(len(some), 1)
                tried[:, place] = some
                rows = check.reader.rows(model, _filled(tried, length, padding))[:, : len(tokens)]
                tokens = tried[int(check.space.outside(rows).square().sum(1).argmin())]
        if torch.equal(before, tokens):
            break
    return tokens
