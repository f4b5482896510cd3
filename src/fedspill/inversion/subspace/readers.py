"""Places where sentences can be read: linear layers that get a row for every token, and what each row depends on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import NotApplicable, few
from fedspill.core.inputs import TokenSpec
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Params
from fedspill.inversion.subspace.calls import Call, Weight, linear_calls

PROBES = 3
"""Sentences by which is seen what a row depends on."""
CHUNK = 2**16
"""Rows in one pass."""
OWN = 2.0
"""Times as far as others, which a row moves with the token at its own position, from which it is anchored there."""


@dataclass(frozen=True)
class Reader:
    """Weights with one input, a row (d,) for every token.

    Attributes:
        weights: query, key and value of an attention, say, or any others.
        width: of a row.
        by_sentence: rows come sentence by sentence; else position by position.
        local: a row depends on the token at its position alone.
        causal: no row depends on a later token.
        anchored: a row depends on the token at its own position more than on any other; not so right behind an
            attention, where it is a mean over tokens.
    """

    weights: tuple[Weight, ...]
    width: int
    by_sentence: bool
    local: bool
    causal: bool
    anchored: bool

    @property
    def name(self) -> str:
        """Of the first weight, for messages."""
        return self.weights[0].name

    def sent(self, names: Iterable[str]) -> "Reader | None":
        """The same with those weights alone that are among these names; None if none is."""
        held = frozenset(names)
        kept = tuple(w for w in self.weights if w.name in held)
        return replace(self, weights=kept) if kept else None

    @property
    def capacity(self) -> int:
        """Independent rows that its gradient can show at most."""
        return min(self.width, sum(w.size for w in self.weights))

    def gradient(self, values: Params) -> Float[Tensor, "out d"]:
        """The weights' gradients, one below the other."""
        return torch.cat([w.part(values) for w in self.weights])

    def rows(self, model: Model, tokens: Int[Tensor, "n t"]) -> Float[Tensor, "n t d"]:
        """What enters for these sentences, float64, computed in the model's own precision."""
        parts = tokens.split(max(1, CHUNK // tokens.shape[1]))
        return torch.cat([self._rows(model, part) for part in parts])

    def _rows(self, model: Model, tokens: Tensor) -> Tensor:
        call = linear_calls(model, tokens, frozenset(self.weights[:1]))[0]
        return ordered(call.rows, len(tokens), self.by_sentence).double()


def ordered(rows: Float[Tensor, "m d"], sentences: int, by_sentence: bool) -> Float[Tensor, "n t d"]:
    """Rows by sentence and position."""
    if by_sentence:
        return rows.unflatten(0, (sentences, -1))
    return rows.unflatten(0, (-1, sentences)).transpose(0, 1)


def readers(model: Model) -> tuple[Reader, ...]:
    """All readers of a network, in the order of their calls; weights that are called twice in a pass are none.

    Raises:
        NotApplicable: the network takes no tokens.
    """
    spec = model.input
    if not isinstance(spec, TokenSpec):
        raise NotApplicable("sentences are read; the network takes no tokens")
    probes = _probes(spec, model.like.device)
    calls = linear_calls(model, probes)
    names = [c.weight for c in calls]
    once = [i for i, w in enumerate(names) if names.count(w) == 1 and len(calls[i].rows) == PROBES * spec.length]
    found = list[Reader]()
    for group in _alike(calls, once):
        weights = tuple(calls[i].weight for i in group)
        reader = _examined(model, probes, calls[group[0]], weights)
        found += [] if reader is None else [reader]
    return tuple(found)


def _probes(spec: TokenSpec, device: torch.device) -> Int[Tensor, "n t"]:
    drawn = torch.randint(spec.vocabulary, (PROBES, spec.length), generator=stream(0, "sentences", "probes"))
    return drawn.to(device)


def _alike(calls: list[Call], places: list[int]) -> list[list[int]]:
    """Calls with equal rows."""
    groups = list[list[int]]()
    for i in places:
        same = (g for g in groups if torch.equal(calls[g[0]].rows, calls[i].rows))
        group = next(same, None)
        if group is None:
            groups.append([i])
        else:
            group.append(i)
    return groups


def _examined(model: Model, probes: Tensor, call: Call, weights: tuple[Weight, ...]) -> Reader | None:
    """How rows are ordered and what they depend on, by changing tokens; None if they follow no order."""
    n, t = probes.shape
    by_sentence = _by_sentence(model, probes, call)
    if by_sentence is None:
        return None
    before = ordered(call.rows, n, by_sentence)
    places = sorted({0, t // 2, t - 1})
    moved = {place: _moved(model, probes, before, weights, by_sentence, place) for place in places}
    if not all(bool(m[place] > 0) for place, m in moved.items()):
        return None
    local = all(int((m > 0).sum()) == 1 for m in moved.values())
    causal = not any(bool(m[:place].any()) for place, m in moved.items())
    anchored = float(moved[t // 2][t // 2]) > OWN * _others(moved[t // 2], t // 2)
    return Reader(weights, call.rows.shape[1], by_sentence, local, causal, anchored)


def _others(moved: Float[Tensor, " t"], place: int) -> float:
    """How far the rows of other positions moved that moved at all, in the mean."""
    rest = torch.cat([moved[:place], moved[place + 1 :]])
    return float(rest[rest > 0].mean()) if bool((rest > 0).any()) else 0.0


def _moved(
    model: Model, probes: Tensor, before: Tensor, weights: tuple[Weight, ...], by_sentence: bool, place: int
) -> Float[Tensor, " t"]:
    """How far each row of the first sentence moves with the token at a place; 0 where that is rounding."""
    rows = linear_calls(model, _changed(model, probes, place), frozenset(weights[:1]))[0].rows
    after = ordered(rows, len(probes), by_sentence)
    return (after - before)[0].norm(dim=1) * _differ(after, before)[0]


def _by_sentence(model: Model, probes: Tensor, call: Call) -> bool | None:
    n, t = probes.shape
    other = probes.clone()
    other[0] = _next(model, probes[0])
    rows = linear_calls(model, other, frozenset([call.weight]))[0].rows
    if rows.shape != call.rows.shape:
        return None
    moved, place = _differ(rows, call.rows), torch.arange(n * t, device=rows.device)
    for by_sentence, sentence in ((True, place // t), (False, place % n)):
        if not bool(moved[sentence != 0].any()) and bool(moved.any()):
            return by_sentence
    return None


def _changed(model: Model, probes: Tensor, place: int) -> Tensor:
    other = probes.clone()
    other[0, place] = _next(model, probes[0, place])
    return other


def _next(model: Model, tokens: Tensor) -> Tensor:
    assert isinstance(model.input, TokenSpec)
    return (tokens + 1) % model.input.vocabulary


def _differ(a: Tensor, b: Tensor) -> Tensor:
    scale = 8 * torch.finfo(b.dtype).eps * b.abs().amax(-1)
    return (a - b).abs().amax(-1) > scale


def first_reader(found: tuple[Reader, ...], sent: Iterable[str]) -> Reader:
    """The reader of single tokens: the widest among those whose rows depend on one token each; the last of equals.

    Raises:
        NotApplicable: there is none, or its gradient was not sent.
    """
    local = [r for r in found if r.local]
    if not local:
        raise NotApplicable(
            "no linear layer of the network gets a row for each token that depends on this token alone, as the first"
            " attention's query, key and value do behind an embedding"
        )
    kept = [r for reader in local if (r := reader.sent(sent)) is not None]
    if not kept:
        names = few(w.name for r in local for w in r.weights)
        raise NotApplicable(
            f"the gradient of the first attention's query, key or value is needed ({names}); none was sent"
        )
    return max(reversed(kept), key=lambda r: r.capacity)
