"""Epsilon of what was seen, if the chain always does it; else the reasons why there is none.

One Gaussian release by Balle and Wang's analytic mechanism (arXiv:1805.06530); Laplace noise by the largest sum of
absolute values that a clipping norm admits, composed as it is or by concentrated differential privacy (Bun and Steinke
2016, arXiv:1605.02658, Propositions 1.3 and 1.4), whichever is less.
"""

import math
from collections.abc import Iterator, Sequence

from fedspill.defences.local_dp import analytic_epsilon
from fedspill.filtering.chains.chain import Declared
from fedspill.filtering.noise import below
from fedspill.filtering.seen import Seen
from fedspill.report.filtering import Fate, Privacy

UPDATES = "any two updates of one client (replacement, twice the clipping norm apart)"
EXAMPLES = "one example of the client's, there or not (by the chain's own calibration, no subsampling counted)"
FLOATS = ("parameter", "buffer")
CAUTION = 2.0
"""Standard errors by which a norm that is not stated is taken larger than it was measured."""


def privacy_of(seen: Seen, law: str, rounds: int, delta: float) -> Privacy:
    """The Gaussian or the Laplace mechanism, of the norm and the noise that were measured.

    A norm or a sensitivity that the configuration states is taken where what was measured agrees with it.

    Args:
        law: of the noise.
        rounds: over which it is composed, without subsampling.
        delta: of all of it.
    """
    noise = smallest(seen.sent, seen.pairs)
    reasons = tuple(_of_client(seen) if seen.computes else _of_filter(seen, law))
    sensitivity, clip, unit = _sensitivity(seen)
    rest = (rounds, delta, unit, clip, noise, _claimed(seen.declared))
    if reasons or sensitivity is None:
        return Privacy(None, None, *rest, reasons or ("its sensitivity is not known",))
    if law == "Laplace":
        return Privacy(*_of_laplace(noise, sensitivity, sum(f.size for f in seen.sent), rounds, delta), *rest)
    # Releases of a Gaussian mechanism compose to one with less noise: sigma over the root of their number.
    one, composed = (analytic_epsilon(noise / sensitivity / count**0.5, delta) for count in (1, rounds))
    return Privacy(one, composed, *rest)


def _of_laplace(noise: float, sensitivity: float, size: int, rounds: int, delta: float) -> tuple[float, float]:
    """Epsilon of one release, at any delta, and of all.

    Two updates that lie `sensitivity` apart differ by no more than its product with the root of the number of values
    in the sum of absolute values; noise of scale b deviates by b times the root of 2.
    """
    one = sensitivity * size**0.5 / (noise / 2**0.5)
    rho = rounds * one**2 / 2
    return one, min(rounds * one, rho + 2 * (rho * math.log(1 / delta)) ** 0.5)


def _sensitivity(seen: Seen) -> tuple[float | None, float | None, str]:
    """How far two releases lie apart before the noise, the norm, and between which inputs."""
    declared, bound = seen.declared, seen.bound
    usual = EXAMPLES if seen.unit == "example" else UPDATES
    if declared.multiplier and declared.noise:
        stated = declared.noise / declared.multiplier
        clip = declared.clip if declared.clip is not None or bound.exceeds(stated) else bound.clip
        return None if bound.exceeds(stated) else stated, clip, declared.unit or usual
    if seen.computes:
        return None, declared.clip, declared.unit or usual
    if bound.clip is None:
        return None, None, usual
    meant = declared.clip
    clip = meant if meant is not None and bound.agrees(meant) else bound.clip + CAUTION * bound.error
    return 2 * clip, clip, usual


def smallest(sent: Sequence[Fate], pairs: int) -> float:
    """The noise of the tensors together, or of the one that certainly has less.

    Args:
        pairs: of pushes, by whose differences each tensor's noise was measured.
    """
    if not sent or not all(f.noise for f in sent):
        return 0.0
    size = sum(f.size for f in sent)
    together = math.sqrt(sum(f.noise**2 * f.size for f in sent) / size)
    less = [f.noise for f in sent if below(f.noise, together, f.size * pairs)]
    return min([together, *less])


def _claimed(declared: Declared) -> str:
    if declared.epsilon is None:
        return ""
    return f"the configuration says epsilon {declared.epsilon:g}, delta {declared.delta:g}"


def _of_filter(seen: Seen, law: str) -> Iterator[str]:
    if not seen.sent:
        yield "nothing was sent to judge"
        return
    yield from (f"{name} is a heuristic, for which nothing is proven" for name in seen.declared.heuristics)
    if seen.repeated:
        yield "the noise is the same in every push"
        return
    if not any(f.noise for f in seen.sent):
        yield "no noise" + (f" (said to be added by {seen.declared.elsewhere})" if seen.declared.elsewhere else "")
        return
    yield from _bare(seen.sent)
    yield from _not_redrawn(seen)
    if seen.bound.clip is None:
        yield "no clipping bounds what one client can send"
    elif not seen.bound.whole:
        yield "what is clipped is no multiple of the update, so that one norm was not measured"
    if seen.bound.vanishes:
        yield "a larger update gets less noise"
    if seen.bound.grows:
        yield "the noise grows with the update"
    if law not in ("Gaussian", "Laplace"):
        yield f"the noise's law is {law or 'not told'}; only Gaussian and Laplace noise are accounted for here"


def _of_client(seen: Seen) -> Iterator[str]:
    """Of one that clips example by example: its own calibration, where the noise that was measured bears it out."""
    if not any(f.noise for f in seen.sent):
        yield "no noise"
        return
    yield from _bare(seen.sent)
    yield from _not_redrawn(seen)
    meant = seen.declared.noise
    if meant and any(below(f.noise, meant, f.size * seen.pairs) for f in seen.sent):
        yield "the noise is smaller than its calibration says"


def _not_redrawn(seen: Seen) -> Iterator[str]:
    if seen.seeded or seen.alike:
        yield "the noise is not drawn anew"


def _bare(sent: Sequence[Fate]) -> Iterator[str]:
    bare = [f.name for f in sent if not f.noise]
    if bare:
        yield f"{len(bare)} of {len(sent)} tensors are sent without noise, first {bare[0]}"
    partly = [f.name for f in sent if f.noise and f.noised < 1 and f.kind in FLOATS]
    if partly:
        yield f"noise does not reach every value of {len(partly)} tensors, first {partly[0]}"
