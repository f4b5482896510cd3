"""The attacks on what a chain was handed, and on what left.

By a server that knows nothing of the chain, by one that knows what it does, and by one that asks again and takes the
mean of the answers.

Kerckhoffs: a client's configuration is no secret to the server that wrote it. What it would know is taken from what the
tensors were seen to become, never from their values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fedspill.auditing.exposure import MeasuresExposure
from fedspill.core.knowledge import KnownDefence
from fedspill.core.local_training.update import FedSGD
from fedspill.core.roles import Exposed
from fedspill.core.types import Params, Update, UpdateKind
from fedspill.filtering.chains.chain import Offer
from fedspill.filtering.fates import CUT, QUANTISED
from fedspill.filtering.probing import Answers
from fedspill.report.filtering import Fate

SIGNS = 2
"""Values of a tensor that tell no more than a sign."""


@dataclass(frozen=True)
class Attacked:
    """The same attacks, one entry each that applies.

    Attributes:
        before: on what was pushed.
        after: on what left first.
        knowing: on the same, by a server that knows what the chain does; () where there is nothing to adapt to.
        averaged: likewise on the mean of all answers; () where it is one answer, or tells no more than one.
    """

    before: tuple[Exposed, ...] = ()
    after: tuple[Exposed, ...] = ()
    knowing: tuple[Exposed, ...] = ()
    averaged: tuple[Exposed, ...] = ()


def attacked(
    offer: Offer, answers: Answers, fates: Sequence[Fate], *, clipped: bool, redrawn: bool, seconds: float
) -> Attacked:
    """Attacks what was pushed, and what left.

    Args:
        fates: of every tensor.
        clipped: the whole update is scaled by a factor that the server cannot know.
        redrawn: the noise of every push is another one.
        seconds: for each of the four; 0 leaves all of them out.
    """
    if not seconds:
        return Attacked()
    measures = MeasuresExposure(seconds=seconds)

    def of(change: Params, known: KnownDefence | None = None) -> tuple[Exposed, ...]:
        update = Update(UpdateKind.GRADIENT, _uphill(change, offer))
        if not update.values or not all(bool(v.isfinite().all()) for v in update.values.values()):
            return ()
        return measures.of_update(update, offer.model, offer.batch, FedSGD(), known)

    before, usual = of(offer.change), answers.usual
    if len(usual) == 0:
        return Attacked(before)
    known = known_of(fates, clipped=clipped)
    knowing = of(usual[0], known) if known != KnownDefence() else ()
    averaged: tuple[Exposed, ...] = ()
    if known.is_noisy and known.averages and redrawn and len(usual) > 1:
        averaged = of(_mean(usual), known.averaged(len(usual)))
    return Attacked(before, of(usual[0]), knowing, averaged)


def known_of(fates: Sequence[Fate], *, clipped: bool) -> KnownDefence:
    """What a server that knows the chain knows, by what became of the parameters."""
    own = [f for f in fates if f.kind == "parameter"]
    sent = [f for f in own if f.sent and f.kept > 0]
    size = sum(f.size for f in sent)
    noise = math.sqrt(sum(f.noise**2 * f.size for f in sent) / size) if size else 0.0
    levels = [
        int(word.removeprefix(QUANTISED).split()[0]) for f in sent for word in f.became if word.startswith(QUANTISED)
    ]
    return KnownDefence(
        noise=noise or None,
        survivors=any(f.kept < 1 for f in sent),
        cut=any(word.startswith(CUT) for f in sent for word in f.became),
        signs=bool(levels) and max(levels) <= SIGNS and len(levels) == len(sent),
        scale_free=clipped,
        left_out=frozenset(f.name for f in own if f not in sent),
        bits=math.ceil(math.log2(max(levels) + 1)) if levels and max(levels) > SIGNS else None,
    )


def _mean(answers: Sequence[Params]) -> Params:
    """Of the tensors that are in all of them."""
    names = [n for n, v in answers[0].items() if v.is_floating_point() and all(n in a for a in answers)]
    return {n: torch.stack([a[n].double() for a in answers]).mean(0).to(answers[0][n]) for n in names}


def _uphill(change: Params, offer: Offer) -> Params:
    """The parameters' part, server minus client, as the server would take it; what has another shape is left out."""
    params = offer.model.params
    fits = {n: change[n] for n in params if n in change and change[n].shape == params[n].shape}
    return {n: -v.to(params[n]) for n, v in fits.items()}
