"""A chain tested: pushed, compared, attacked before and after, and judged."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.roles import Exposed
from fedspill.core.types import Batch, Params
from fedspill.filtering import clipping, fates, noise, odd, probing
from fedspill.filtering.attacking import attacked
from fedspill.filtering.chains.chain import Chain, Declared, Offer, Refused
from fedspill.filtering.findings import findings_of
from fedspill.filtering.known import offer_of, whole_numbers, without
from fedspill.filtering.proven import privacy_of
from fedspill.filtering.seen import Seen
from fedspill.report.filtering import Fate, Filtering

PUSHES, FEWEST = 16, 4
ROUNDS = 100
DELTA = 1e-5
SECONDS = 40.0
SAME_NOISE = "noised, the same in every push"
NOTHING_BEFORE = "No attack rebuilt anything before the chain either, so that nothing after it is no evidence."
ONE_BUILD = "The chain could not be built a second time, so a fixed seed at its start was not looked for."


def filtered(
    chain: Chain,
    source: str,
    model: Model,
    batch: Batch,
    *,
    pushes: int = PUSHES,
    rounds: int = ROUNDS,
    delta: float = DELTA,
    clip: float | None = None,
    noise_std: float | None = None,
    seconds: float = SECONDS,
) -> Filtering:
    """Tests a chain with the update of a batch.

    Args:
        source: the chain as it was named.
        model: whose update is pushed, in eval mode.
        batch: the examples behind the update; what is rebuilt of them is judged by them.
        pushes: of the same update; an even number from 4.
        rounds: over which epsilon is composed.
        delta: of the composed epsilon, in (0, 1).
        clip: the norm that the chain is meant to clip to, besides what it says itself.
        noise_std: likewise the standard deviation of its noise, in the update's unit.
        seconds: for the attacks before, for those after, and for each kind of server that knows the chain; 0 leaves
            them out.

    Raises:
        BadInput: a value out of range, or the chain refuses an ordinary update.
    """
    _check(pushes, rounds, delta, clip, noise_std, seconds)
    began = time.process_time()
    with _own_randomness():
        offer, refusal = _taken(chain, offer_of(model.in_eval_mode(), batch))
        answers = probing.pushed(chain, offer, pushes)
        bound = clipping.bound_of(answers, offer.received, chain.carries_weights)
        shrunk = bound.clip is not None
        oddities = odd.odd_of(chain, offer, shrunk, answers.round + 1)
    told = fates.fates_of(answers, offer.received, model, chain.carries_weights, bound.factor(answers))
    declared = _declared(chain.declared, clip, noise_std)
    repeated, seeded, alike, law = _draws(answers, told, offer, chain.carries_weights)
    told = tuple(replace(f, became=(SAME_NOISE,)) if f.name in repeated else f for f in told)
    redrawn = not (repeated or seeded)
    found = attacked(offer, answers, told, clipped=bound.clip is not None, redrawn=redrawn, seconds=seconds)
    seen = Seen(
        declared,
        told,
        bound,
        chain.unit,
        chain.computes,
        pushes // 2,
        repeated,
        seeded,
        alike,
        oddities,
        found,
        answers.withheld,
        pushes,
    )
    return Filtering(
        source=source,
        steps=chain.steps,
        model=type(model.module).__name__,
        examples=len(batch),
        pushes=pushes,
        fates=told,
        findings=findings_of(seen),
        privacy=privacy_of(seen, law, rounds, delta),
        law=law,
        odd=oddities.told,
        cosine=fates.whole_cosine(answers),
        before=found.before,
        after=found.after,
        knowing=found.knowing,
        averaged=found.averaged,
        notes=(*([refusal] if refusal else []), *_notes(answers, found.before, seconds)),
        seconds=time.process_time() - began,
    )


def _check(pushes: int, rounds: int, delta: float, clip: float | None, noise_std: float | None, seconds: float) -> None:
    if pushes < FEWEST or pushes % 2:
        raise BadInput(f"pushes={pushes}: an even number from {FEWEST} is needed")
    if rounds < 1 or not 0 < delta < 1:
        raise BadInput(f"rounds={rounds}, delta={delta}: at least 1 round, and a delta between 0 and 1, are needed")
    for name, value in (("clip", clip), ("noise", noise_std)):
        if value is not None and not 0 < value < float("inf"):
            raise BadInput(f"{name}={value} must be above 0 and finite")
    if not 0 <= seconds < float("inf"):
        raise BadInput(f"seconds={seconds} must be at least 0 and finite")


def _taken(chain: Chain, offer: Offer) -> tuple[Offer, str]:
    """The offer, or where the chain ends with an error for whole numbers, what it takes, with a note.

    It is tried on another chain of the same configuration where there is one, as a seed's first draws are of interest.
    """
    tried = chain.renewed() or chain
    try:
        tried.send(offer)
    except Refused as error:
        names = whole_numbers(offer.change)
        lesser = without(offer, names)
        try:
            tried.send(lesser)
        except Refused:
            return offer, ""  # the first error is told, where the update is pushed
        return lesser, f"The chain refuses whole numbers ({', '.join(names)}): {error}; it was tested without any."
    return offer, ""


@contextmanager
def _own_randomness() -> Generator[None]:
    """What a chain draws, or seeds, is its own affair: afterwards the global generators are as they were."""
    kept = np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(kept)


def _declared(said: Declared, clip: float | None, noise_std: float | None) -> Declared:
    said = said if clip is None else replace(said, clip=clip)
    return said if noise_std is None else replace(said, noise=noise_std)


def _draws(
    answers: probing.Answers, told: Sequence[Fate], offer: Offer, weights: bool
) -> tuple[list[str], list[str], list[tuple[str, str]], str]:
    """Tensors with one noise in every push, with one noise in every chain; pairs that share it; and its law."""
    tiny = answers.at(probing.SMALL)
    names = clipping.sent_floats(answers)
    repeated = [n for n in names if len(tiny) > 1 and _is_repeated(tiny, n, answers.offered)]
    seeded = [f.name for f in told if f.noise and f.name not in repeated and _is_seeded(answers, f.name)]
    noisy = {f.name: f.noise for f in told if f.noise and f.name in names}
    drawn = {n: _residual(answers, n) for n in (*noisy, *repeated) if len(tiny or answers.usual) > 1}
    return repeated, seeded, noise.shared(drawn), noise.law(list(drawn.values())) if drawn else ""


def _is_repeated(tiny: Sequence[Params], name: str, offered: Params) -> bool:
    first, second = (a[name].detach().double().flatten() for a in tiny[:2])
    return noise.is_constant(first, second, probing.SMALL * offered[name].double().flatten())


def _is_seeded(answers: probing.Answers, name: str) -> bool:
    """Whether a chain that was built anew answers the same rounds with the same noise."""
    pairs = list(zip(answers.usual, answers.again, strict=False))
    return bool(pairs) and all(name in a and name in b and torch.equal(a[name], b[name]) for a, b in pairs)


def _residual(answers: probing.Answers, name: str) -> torch.Tensor:
    """The noise of one tensor: what a tiny update leaves with, or, without any, the difference of two answers."""
    tiny = answers.at(probing.SMALL)
    if tiny:
        return tiny[0][name].detach().double().flatten()
    first, second = (a[name].detach().double().flatten() for a in answers.usual[:2])
    return (first - second) / 2**0.5


def _late(attacks: Sequence[Exposed]) -> list[str]:
    return [one.attack for one in attacks if one.failed]


def _notes(answers: probing.Answers, before: Sequence[Exposed], seconds: float) -> list[str]:
    notes = [NOTHING_BEFORE] if seconds and not any(bool(one.read.any()) for one in before) else []
    notes += [f"{len(late)} attacks on the update as it was had no time to end."] if (late := _late(before)) else []
    notes += [] if answers.again else [ONE_BUILD]
    notes += [f"{answers.withheld} pushes of the update were withheld."] if answers.withheld else []
    notes += [f"The update times {scale:g} was refused: {why}." for scale, why in answers.refused.items()]
    return notes
