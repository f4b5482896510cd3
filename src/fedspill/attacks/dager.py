"""DAGER: sentences read out of the row spaces of the first layers' gradients; exact while tokens are below the width.

Petrov, Dimitrov, Baader, Müller, Vechev: "DAGER: Exact Gradient Inversion for Large Language Models", NeurIPS 2024,
arXiv:2405.15586. Written anew from the paper; `inversion/subspace` says what differs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable
from fedspill.core.inputs import TokenSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.roles import UNWATCHED, Attack, Card, Watch
from fedspill.core.types import Params, Reconstruction, Update
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.subspace.assembling import assembled
from fedspill.inversion.subspace.checking import Verdict, verdict
from fedspill.inversion.subspace.choosing import check_of, open_space
from fedspill.inversion.subspace.growing import Check, Sentences, grown
from fedspill.inversion.subspace.labels import (
    Read,
    label_layer,
    matched_labels,
    read_labels,
    relabelled,
    with_last_token,
)
from fedspill.inversion.subspace.readers import Reader, first_reader, readers
from fedspill.inversion.subspace.selecting import selected
from fedspill.inversion.subspace.tokens import INSIDE, Candidates, candidates, padding_token, tokens_that_moved

SURE, LIKELY, DOUBTFUL = 1.0, 0.5, 0.25
"""Confidence of a sentence that the update confirms, of one whose every row is inside, and of any other."""

RELABELLED = (0.5, 0.5, 0.25, 0.25)
"""Levels, one after the other, at which labels are put right by what a replayed update leaves."""


@dataclass(frozen=True)
class DAGER:
    """Reads tokens in the first attention's gradient, grows or assembles sentences at a later layer, and replays them.

    Works while the different tokens of all sentences, each counted once a position, are fewer than the width that the
    first layer's rows have. Converged means that the update of what was read is the observed one, row by row, up to
    the noise that the spectra show, and that no sentence is missing.

    Attributes:
        starts: of a network that looks both ways: sentences that are started for each that is to be found.
    """

    starts: int = 12

    def __post_init__(self) -> None:
        if self.starts < 1:
            raise BadInput(f"starts={self.starts} must be 1 or more")

    def reconstruct(
        self, update: Update, knowledge: ServerKnowledge, rng: torch.Generator, watch: Watch = UNWATCHED
    ) -> Reconstruction:
        """The sentences, each as often as the batch holds it, with their labels.

        Raises:
            NotApplicable: the network takes no tokens or has no linear layer with a row for each; the gradient of the
                first one was not sent; it holds as many tokens as its width, or more noise than tokens; the update is
                of several local steps.
        """
        if not one_step(update, knowledge):
            raise NotApplicable(
                "the row space of one gradient is read; the update holds several local steps, or a number unknown to"
                " the server"
            )
        world = _World.of(update, knowledge)
        found = world.tokens()
        sentences = self._sentences(world, found, rng)
        rebuilt = _reported(world, found, sentences, _labels(world, sentences.sentences))
        if knowledge.num_examples is not None and not rebuilt.converged and "alone" not in rebuilt.marks:
            held = knowledge.num_examples * world.spec.length
            if held >= world.first.reader.capacity:
                raise NotApplicable(_crowded(world.first.reader, knowledge))
        return rebuilt

    def _sentences(self, world: "_World", found: Candidates, rng: torch.Generator) -> "_Found":
        """Whole sentences; without a later layer, only where each position has one token, or there is but one."""
        if len(found.tokens) == 1:
            tokens, excess = found.tokens[0], found.excess[0]
            return _Found(Sentences(tokens[:, None], excess, torch.ones_like(tokens)), None)
        sure = all(len(tokens) == 1 for tokens in found.tokens)
        check = check_of(world.model, world.later, world.values, world.first.space.rank, found, world.eps, rng)
        if check is None and any(not len(tokens) for tokens in found.tokens):
            raise NotApplicable(
                f"the gradient of {world.first.reader.name!r} has {world.first.space.rank} independent rows, fewer than"
                " there are tokens: no token's row lies in their space at some positions"
            )
        if check is None and not sure:
            raise NotApplicable(
                "tokens were read, but not which stand in one sentence: that needs a later layer's gradient with a"
                " trace of every token, and fewer tokens in all than its width; the update holds"
                f" {_held(world.knowledge)}"
            )
        if check is None:
            return _Found(_only(found), None)
        many = self._many(world, found, check, rng)
        return _Found(selected(world.model, check, world.values, many, world.knowledge.num_examples), check)

    def _many(self, world: "_World", found: Candidates, check: Check, rng: torch.Generator) -> Sentences:
        if check.reader.causal:
            return grown(world.model, check, found, world.wanted, world.padding)
        if not len(found.tokens[0]):
            raise NotApplicable("no token's row lies in the space of the first layer's gradient at the first position")
        return assembled(world.model, check, found, world.wanted, world.padding, rng, starts=self.starts)


@dataclass(frozen=True)
class _Found:
    sentences: Sentences
    check: Check | None


@dataclass(frozen=True)
class _Told:
    """What the replayed update says of sentences with these labels, as the loss takes them."""

    verdict: Verdict
    sentences: Sentences
    labels: Int[Tensor, "m ..."]


@dataclass(frozen=True)
class _World:
    """What is read from: the network in eval mode, mean gradients, the first layer, later ones, and the last."""

    update: Update
    knowledge: ServerKnowledge
    model: Model
    values: Params
    first: Check
    later: tuple[Reader, ...]
    layer: tuple[str, ...]

    @classmethod
    def of(cls, update: Update, knowledge: ServerKnowledge) -> "_World":
        """Finds the layers, and the first one's row space."""
        model = knowledge.model.in_eval_mode()
        every = readers(model)
        first = first_reader(every, update.values)
        layer = label_layer(model, _probes(model))
        names = {*layer, *(w.name for reader in every for w in reader.weights)}
        values = mean_gradient(update, knowledge, names.intersection(update.values)).values
        space = open_space(model, first, values, torch.finfo(model.like.dtype).eps)
        if space is None:
            raise NotApplicable(_crowded(first, knowledge))
        later = tuple(r for reader in every if not reader.local and (r := reader.sent(values)) is not None)
        return cls(update, knowledge, model, values, Check(first, space), later, layer)

    @property
    def spec(self) -> TokenSpec:
        assert isinstance(self.model.input, TokenSpec)
        return self.model.input

    @property
    def eps(self) -> float:
        return torch.finfo(self.model.like.dtype).eps

    @property
    def wanted(self) -> int:
        """Sentences to look for: as many as there are, else as many as tokens could fill."""
        known = self.knowledge.num_examples
        return known if known is not None else max(1, -(-self.first.space.rank // self.spec.length))

    @property
    def padding(self) -> int | None:
        return padding_token(self.model, _probes(self.model))

    def tokens(self) -> Candidates:
        """Tokens by position."""
        ids = tokens_that_moved(self.model, self.update.values, _probes(self.model))
        return candidates(self.model, self.first.reader, self.first.space, ids, self.wanted)


def _probes(model: Model) -> Int[Tensor, "n t"]:
    spec = model.input
    assert isinstance(spec, TokenSpec)
    places = torch.arange(2 * spec.length, device=model.like.device)
    return (places % spec.vocabulary).view(2, -1)


def _held(knowledge: ServerKnowledge) -> str:
    spec, n = knowledge.model.input, knowledge.num_examples
    assert isinstance(spec, TokenSpec)
    return f"{'an unknown number of' if n is None else n} sentences of {spec.length} tokens"


def _crowded(first: Reader, knowledge: ServerKnowledge) -> str:
    return (
        f"the gradient of {first.name!r} shows no end of its tokens' space: the update holds {_held(knowledge)}, of"
        f" which fewer than {first.capacity - 1} different tokens in all can be read, and these only above the noise"
    )


def _only(found: Candidates) -> Sentences:
    tokens = torch.cat(found.tokens)[None]
    return Sentences(tokens, torch.cat(found.excess).max()[None], tokens.new_tensor([tokens.shape[1]]))


def _labels(world: _World, sentences: Sentences) -> Read | None:
    """As the classification layer tells them; else as they were granted."""
    granted = world.knowledge.labels
    read = read_labels(world.model, world.values, sentences.tokens, world.knowledge.num_examples)
    if read is not None and bool(read.counts.any()):
        return read
    if granted is None or granted.is_floating_point() or not len(sentences.tokens):
        return None
    if granted.ndim == 2 and granted.shape[1] == world.spec.length:
        return matched_labels(sentences.tokens, granted)
    if granted.ndim == 1 and len(granted) == len(sentences.tokens) and len(granted.unique()) == 1:
        return Read(granted.to(sentences.tokens.device), torch.ones_like(granted).to(sentences.tokens.device))
    return None


def _reported(world: _World, found: Candidates, all_found: _Found, read: Read | None) -> Reconstruction:
    """What was read, as often as it was there, with what the replayed update says of it."""
    known = world.knowledge.num_examples
    read, told = _relabelled(world, all_found, read)
    sentences = all_found.sentences if told is None else told.sentences
    certain = _certain(world, sentences, read, told)
    order = _order(sentences, read, certain, known)
    complete = known is None or int(certain[order].sum()) == known
    confidence = torch.where(certain, SURE, torch.where(sentences.excess <= INSIDE, LIKELY, DOUBTFUL))
    return Reconstruction(
        inputs=sentences.tokens[order],
        labels=None if told is None else told.labels[order],
        label_method=None if told is None else "the classification layer's gradient, solved for known features",
        confidence=confidence[order].to(world.model.like),
        converged=bool(len(order)) and complete and bool(certain[order].all()),
        notes=_notes(world, found, sentences, told, len(order)),
        marks=tuple("alone" if c else "unsure" for c in certain[order].tolist()),
    )


def _relabelled(world: _World, found: _Found, read: Read | None) -> tuple[Read | None, _Told | None]:
    """Labels, put right where the replayed update says so, and what it then says."""
    if read is None:
        return None, None
    ways = (True, False) if read.may_be_shifted else (False,)
    tried = [_settled(world, found, read, shifted=shifted) for shifted in ways]
    return next((one for one in tried if one[1] is not None and one[1].verdict.met), tried[-1])


def _settled(world: _World, found: _Found, read: Read, *, shifted: bool) -> tuple[Read, _Told | None]:
    told = _judged(world, found, read, shifted=shifted)
    for level in RELABELLED:
        if told is None or told.verdict.met or not bool((read.counts > 0).all()):
            break
        left, factor = told.verdict.left, told.verdict.factor
        better = relabelled(world.model, left, told.sentences.tokens, read, factor, level)
        if better is not None:
            read, told = better, _judged(world, found, better, shifted=shifted)
    return read, told


def _judged(world: _World, found: _Found, read: Read, *, shifted: bool) -> _Told | None:
    there = read.counts > 0
    if not bool(there.any()):
        return None
    sentences = with_last_token(found.sentences, read) if shifted else found.sentences
    given = read.given(sentences.tokens, shifted=shifted)
    checks = [world.first] if found.check is None else [world.first, found.check]
    said = verdict(
        world.update, world.knowledge, checks, sentences.tokens[there], given[there], read.counts[there], world.layer
    )
    return None if said is None else _Told(said, sentences, given)


def _certain(world: _World, sentences: Sentences, read: Read | None, told: _Told | None) -> Bool[Tensor, " m"]:
    """Sentences that the update confirms, of which nothing was filled up by guess."""
    certain = torch.zeros(len(sentences.tokens), dtype=torch.bool, device=sentences.tokens.device)
    if read is not None and told is not None:
        certain[read.counts > 0] = told.verdict.certain()
    whole = sentences.lengths == sentences.tokens.shape[1]
    return certain & (whole if world.padding is None else torch.ones_like(whole))


def _order(
    sentences: Sentences, read: Read | None, certain: Bool[Tensor, " m"], known: int | None
) -> Int[Tensor, " k"]:
    """Positions of what is shown: the certain first, copies side by side, then the likeliest, as many as there are."""
    rank: Float[Tensor, " m"] = sentences.excess + torch.where(certain, 0.0, 1e30)
    counts = torch.ones_like(sentences.lengths) if read is None else read.counts
    absent = (counts == 0).nonzero()[:, 0]
    by_rank = rank.argsort()
    there = by_rank.repeat_interleave(counts[by_rank])
    if known is None:
        return there
    more = absent[rank[absent].argsort()]
    return torch.cat([there, more])[:known]


def _notes(world: _World, found: Candidates, sentences: Sentences, told: _Told | None, shown: int) -> tuple[str, ...]:
    first = world.first
    notes = [
        f"The gradient of {first.reader.name!r} has {first.space.rank} independent rows of {first.reader.width};"
        f" {sum(len(t) for t in found.tokens)} tokens at {len(found.tokens)} positions lie in their space, in"
        f" {len(sentences.tokens)} different sentences, of which {shown} are shown, copies counted."
    ]
    if told is None:
        notes.append("Their labels could not be told, so that the update could not be replayed: nothing is certified.")
        return tuple(notes)
    notes.append(f"The update that they give differs from the observed one by {told.verdict.residual:.1e} of its norm.")
    return (*notes, *(multiple_note(told.verdict.factor) if told.verdict.met else ()))


_PAPER = DAGER()

CARD: Card[Attack] = Card(
    title="DAGER",
    paper="Petrov et al., NeurIPS 2024, arXiv:2405.15586",
    summary="Reads whole batches of sentences off the row spaces of a transformer's first gradients.",
    presets={"paper": _PAPER, "quick": _PAPER, "strong": DAGER(starts=48)},
    accepts=frozenset({TokenSpec}),
)
