"""Distances of an attacker who knows what the clients did to their update (Kerckhoffs).

What was sent tells a set of updates that the client may have computed: a value that was pruned is no larger than the
smallest that was sent, one that was cut is at least as large. What is compared is the part of a guess that cannot be of
this set. Matching only the surviving entries is Geiping et al. 2020's
and Jeon et al. 2021's answer to pruning; leaving out what was altered, Balunovic et al. 2022's (arXiv:2111.04706).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.knowledge import KnownDefence
from fedspill.core.types import Params
from fedspill.inversion.kernels.products import SMALLEST
from fedspill.inversion.objective.distances import Distance, cosine_distance, squared_distance

SMOOTH = 0.3
"""Share of a tensor's root mean square below which a value's sign fades to 0."""
FEW, PULL, MOST_PULL = 4.0, 0.01, 0.5
"""Values that were not sent for one that was, from which on these determine too little; the plain distance's weight for
each of them, and the largest weight. Chosen on LeNet at shares of 0.7, 0.9 and 0.99 (docs/defences.md)."""
SMALL = 0.1
"""The plain distance's weight where what was not sent is known to be small, so that 0 is close; less where little of
it is. Chosen on seeds 6 to 11 of LeNet at a share of 0.7 (docs/defences.md)."""
TOLD = 0.1
"""Share of the values that were sent that must be whole for their length to tell the scale of a guess."""
EQUAL = 1e-5
"""Relative difference below which a value is the largest one."""


def adapted(
    distance: Distance, known: KnownDefence | None, clients: int = 1, completed: frozenset[str] = frozenset()
) -> Distance:
    """The distance of an attacker who knows the defence: the same one where there is none, or nothing to adapt to.

    Args:
        distance: what the attack minimises otherwise.
        known: what the server knows of the defence. To noise and rounding nothing is adapted: there the plain distances
            are the likeliest already, and a tolerance of half a step was measured to read less (docs/defences.md).
        clients: updates in the mean; of several no more than what was sent at all and what was left out is told.
        completed: parameters of which the observed update holds what the client computed, as their rank told.
    """
    if known is None:
        return distance
    if known.signs and clients == 1:
        return SignDistance(known.left_out)
    if known.scale_free and distance is squared_distance:
        distance = cosine_distance
    alone = clients == 1 and not known.is_noisy
    rule = Consistent(
        squared=distance is squared_distance,
        survivors=known.survivors,
        bounded=known.survivors and alone,
        cut=known.cut and alone,
        left_out=known.left_out,
        completed=completed,
    )
    # Of what is completed without noise the plain distance was measured to read more: cut values bound hardly anything.
    nothing = not rule.says_something or (completed and not known.is_noisy and not known.left_out)
    return distance if nothing else rule


@dataclass(frozen=True)
class SignDistance:
    """1 - cosine between the observed signs and the smoothed signs of a guess, whatever the tensors' sizes."""

    left_out: frozenset[str] = frozenset()

    def __call__(self, guess: Params, observed: Params) -> Float[Tensor, ""]:
        """Differentiable once in the guess."""
        names = _compared(observed, self.left_out)
        smooth = {k: _smooth_sign(guess[k]) for k in names}
        return cosine_distance(smooth, {k: observed[k].sign() for k in names})


def _smooth_sign(value: Tensor) -> Tensor:
    size = value.detach().square().mean().sqrt().clamp_min(SMALLEST)
    return value / (value.square() + (SMOOTH * size).square()).sqrt()


@dataclass(frozen=True)
class Consistent:
    """How far a guess is from all updates that the client may have computed, in place of the one that was sent.

    Attributes:
        squared: the sum of squares of what does not fit; else 1 - cosine of the observed update and the nearest one to
            it that is off by as much, at the scale of the guess that fits best.
        survivors: values that are 0 were not sent; a little of the plain distance is added where very few were, or
            where what was not is known to be small.
        bounded: these are no larger than the smallest value of their tensor that was sent.
        cut: the largest values may have been larger.
        left_out: parameters that are not compared.
        completed: parameters that are compared as they are.
    """

    squared: bool = False
    survivors: bool = False
    bounded: bool = False
    cut: bool = False
    left_out: frozenset[str] = frozenset()
    completed: frozenset[str] = frozenset()

    @property
    def says_something(self) -> bool:
        """Whether it differs from the plain distance."""
        return bool(self.survivors or self.cut or self.left_out)

    def __call__(self, guess: Params, observed: Params) -> Float[Tensor, ""]:
        """Differentiable once in the guess."""
        names = _compared(observed, self.left_out)
        altered = [k for k in names if k not in self.completed]
        top = max((float(observed[k].abs().max()) for k in altered), default=0.0) * (1 - EQUAL)
        scale = 1.0 if self.squared else self._scale(guess, observed, names, top)
        off = {k: scale * guess[k] - observed[k] for k in names if k in self.completed}
        off |= {k: self._off(scale * guess[k], observed[k], top) for k in altered}
        off = {k: off[k] for k in names}
        if self.squared:
            return torch.stack([v.square().sum() for v in off.values()]).sum()
        seen = {k: observed[k] for k in names}
        distance = cosine_distance({k: observed[k] + v for k, v in off.items()}, seen)
        if not self.survivors:
            return distance
        return distance + _pull(seen, small=self.bounded) * cosine_distance(guess, seen)

    def _off(self, guess: Tensor, observed: Tensor, top: float) -> Tensor:
        """What of guess - observed no update that fits explains."""
        difference = guess - observed
        if self.cut:
            outward = (observed.abs() >= top) & (difference * observed > 0)
            difference = difference.where(~outward, 0.0)
        return difference.where(observed != 0, self._pruned(guess, observed)) if self.survivors else difference

    def _pruned(self, guess: Tensor, observed: Tensor) -> Tensor:
        """What of a guess is too large to have been pruned."""
        sent = observed != 0
        if not self.bounded or not bool(sent.any()):
            return torch.zeros_like(guess)
        return _beyond(guess, float(observed.abs().where(sent, torch.inf).min()))

    def _scale(self, guess: Params, observed: Params, names: list[str], top: float) -> Tensor | float:
        """By what a guess is multiplied to be as long as what was sent of whole values; no more than a constant."""
        whole = {
            k: observed[k].new_ones(()).bool().expand_as(observed[k])
            if k in self.completed
            else self._whole(observed[k], top)
            for k in names
        }
        sent = sum(int((observed[k] != 0).sum()) for k in names)
        if sum(int(w.sum()) for w in whole.values()) < TOLD * sent:
            return 1.0
        lengths = [
            torch.stack([v[k].detach().where(whole[k], 0.0).square().sum() for k in names]).sum()
            for v in (observed, guess)
        ]
        return (lengths[0] / lengths[1].clamp_min(SMALLEST)).sqrt()

    def _whole(self, observed: Tensor, top: float) -> Tensor:
        sent = observed != 0 if self.survivors else torch.ones_like(observed, dtype=torch.bool)
        return sent & (observed.abs() < top) if self.cut else sent


def _pull(observed: Params, *, small: bool) -> float:
    """How much is asked of a guess that the plain distance asks, which draws what was not sent to 0.

    Args:
        small: what was not sent is smaller than what was.
    """
    sent = sum(int(v.count_nonzero()) for v in observed.values())
    hidden = sum(v.numel() for v in observed.values()) / max(sent, 1) - 1
    few = min(MOST_PULL, PULL * hidden) if hidden >= FEW else 0.0
    return max(few, SMALL * min(1.0, hidden)) if small else few


def _compared(observed: Params, left_out: frozenset[str]) -> list[str]:
    """Names that are compared; all, where nothing else would be."""
    return [k for k in observed if k not in left_out] or list(observed)


def _beyond(value: Tensor, slack: float) -> Tensor:
    """What of a value goes beyond +-slack."""
    return value - value.clamp(-slack, slack)
