"""The norm beyond which an update is scaled down, and whether that happens before or after the noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedspill.core.types import Params
from fedspill.filtering.noise import floor, spread, stack
from fedspill.filtering.probing import HUGE, LARGE, SMALL, Answers

BOUNDED = 1.02
"""A thousandfold update that leaves at most so many times as large is bounded."""
STEADY = 1e-4
"""Relative spread of a norm that is the same in every push."""
NOISY = 1e-3
"""Share of a norm that noise must have for its spread to mean something."""
SURE = 6.0
"""Standard errors from which two norms certainly differ."""
EXACT = 0.01
"""Relative difference of norms that is put down to arithmetic."""
BENT = 0.05
"""Share of the norm by which an update that was scaled as a whole may differ from its multiple."""
FALLEN, GROWN = 0.5, 2.0
"""Noise at a thousandfold update, over that at a tiny one, from which it depends on the update."""


@dataclass(frozen=True)
class Bound:
    """How what leaves is bounded.

    Attributes:
        clip: the norm of the part that points the way of the update, at its largest; None if it grows with it.
        whole: the update was scaled as one, so that `clip` bounds whatever is pushed.
        steady: the norm of what leaves is the same in every push, noise and all.
        noise: standard deviation over all values that are sent, by the factor that the update was taken times.
        error: standard error of `clip`.
    """

    clip: float | None
    whole: bool
    steady: bool
    noise: Mapping[float, float]
    error: float = 0.0

    @property
    def after_noise(self) -> bool:
        """The noise is scaled down together with the update."""
        return self.steady and self.vanishes

    @property
    def vanishes(self) -> bool:
        """A larger update gets less noise."""
        return self._ratio() < FALLEN

    @property
    def grows(self) -> bool:
        """A larger update gets more noise, whose size tells of it."""
        return self._ratio() > GROWN

    def agrees(self, meant: float) -> bool:
        """The norm that was measured is this one, as far as it can be told."""
        return self.clip is not None and abs(self.clip - meant) <= SURE * self.error + EXACT * meant

    def factor(self, answers: Answers) -> float | None:
        """What the update in its usual size is scaled by, if that is one factor below 1 for all of it; else None.

        It is 0 where it was not measured, as the noise is larger than the norm.
        """
        length = float(_flat(answers.offered, names).norm()) if (names := sent_floats(answers)) else 0.0
        if self.clip is None or not self.whole or self.clip + SURE * self.error >= length:
            return None
        return self.clip / length if self.clip > SURE * self.error else 0.0

    def exceeds(self, meant: float) -> bool:
        """The norm that was measured is certainly larger than this one."""
        return self.clip is not None and self.clip > meant * (1 + EXACT) + SURE * self.error

    def _ratio(self) -> float:
        tiny, large = self.noise.get(SMALL), self.noise.get(LARGE)
        if tiny is None or large is None or not tiny + large:
            return 1.0
        return large / tiny if tiny else float("inf")


def bound_of(answers: Answers, received: Params, weights: bool) -> Bound:
    """What the multiples of the update tell.

    Args:
        received: what the server sent.
        weights: the chain works on weights.
    """
    names = sent_floats(answers)
    levels = {s: projected(answers, s, names) for s in (LARGE, HUGE) if answers.at(s)}
    bounded = len(levels) == 2 and levels[HUGE] <= BOUNDED * levels[LARGE] + _rounding(answers, received, names)
    noise = {s: _noise(answers, s, names, received if weights else None) for s in (SMALL, 1.0, LARGE)}
    known = {s: v for s, v in noise.items() if v is not None}
    if not bounded or not levels[HUGE]:
        return Bound(None, False, _is_steady(answers, names), known)
    sent = _Sent.of(answers, names)
    whole = sent.is_multiple()
    clip = (levels[LARGE] + levels[HUGE]) / 2 if whole else sent.norm()
    error = sent.noise / (2 * sent.pushes) ** 0.5 if whole else sent.norm_error()
    return Bound(clip, whole, _is_steady(answers, names), known, error)


def _rounding(answers: Answers, received: Params, names: Sequence[str]) -> float:
    """What projections may differ by: rounding, and noise."""
    sizes = [float(received[n].double().norm()) for n in names]
    noise = _noise(answers, LARGE, names, None) or 0.0
    return 1e-5 * sum(v**2 for v in sizes) ** 0.5 + 8 * noise


def sent_floats(answers: Answers) -> list[str]:
    """Names of the tensors of floating numbers that are always sent, in their own shape."""
    every = [*answers.usual, *(a for each in answers.by_scale.values() for a in each)]
    offered = {n: v for n, v in answers.offered.items() if v.is_floating_point() and v.numel()}
    return [n for n, v in offered.items() if every and all(n in a and a[n].shape == v.shape for a in every)]


def _flat(change: Params, names: Sequence[str]) -> Tensor:
    return torch.cat([change[n].detach().double().flatten() for n in names])


def projected(answers: Answers, scale: float, names: Sequence[str]) -> float:
    """Length of the part of the answers that points the way of the update, the mean over the pushes."""
    if not names:
        return 0.0
    way = _flat(answers.offered, names)
    length = float(way.norm())
    if not length:
        return 0.0
    return float(torch.stack([_flat(a, names) @ way / length for a in answers.at(scale)]).mean())


def _noise(answers: Answers, scale: float, names: Sequence[str], weights: Params | None) -> float | None:
    """None where the update is so large that rounding would hide the noise."""
    given = answers.at(scale)
    if len(given) < 2 or not names:
        return None
    total, count = 0.0, 0
    for name in names:
        values = stack(given, name)
        least = floor(given[0][name], None if weights is None else weights[name])
        std, _ = spread(values, least)
        if std <= 4 * least:
            std = 0.0 if least <= _unit(answers, name, weights) else float("nan")
        total, count = total + std**2 * values.shape[1], count + values.shape[1]
    return None if total != total else (total / count) ** 0.5


def _unit(answers: Answers, name: str, weights: Params | None) -> float:
    """Rounding at the usual size, times some: above it nothing is said of noise."""
    return 100 * floor(answers.offered[name], None if weights is None else weights[name]) + 1e-30


@dataclass(frozen=True)
class _Sent:
    """What leaves of a very large update, the mean over the pushes, beside what was pushed.

    Attributes:
        mean: of each tensor.
        way: of what was pushed, likewise.
        noise: standard deviation on every value.
        pushes: behind the mean.
    """

    mean: Sequence[Tensor]
    way: Sequence[Tensor]
    noise: float
    pushes: int

    @classmethod
    def of(cls, answers: Answers, names: Sequence[str]) -> "_Sent":
        given = answers.at(HUGE)
        mean = [stack(given, n).mean(0) for n in names]
        way = [answers.offered[n].detach().double().flatten() for n in names]
        return cls(mean, way, _noise(answers, HUGE, names, None) or 0.0, len(given))

    @property
    def _left(self) -> float:
        """Variance of the noise in the mean."""
        return self.noise**2 / self.pushes

    @property
    def _size(self) -> int:
        return sum(v.numel() for v in self.way)

    def norm(self) -> float:
        """Of what leaves, without the noise."""
        return max(sum(float(v.square().sum()) for v in self.mean) - self._left * self._size, 0.0) ** 0.5

    def norm_error(self) -> float:
        norm = self.norm()
        return (self._left + self._left**2 * self._size / (2 * norm**2)) ** 0.5 if norm else self.noise

    def is_multiple(self) -> bool:
        """Whether what leaves is what was pushed times one factor, but for the noise."""
        total = sum(float(w.square().sum()) for w in self.way)
        factor = sum(float(m @ w) for m, w in zip(self.mean, self.way, strict=True)) / total
        clip, sure = factor * total**0.5, SURE * self._left**0.5
        for mean, way in zip(self.mean, self.way, strict=True):
            rest = mean - factor * way
            chance = self._left * (way.numel() + SURE * (2 * way.numel()) ** 0.5 + SURE**2)
            length = float(way.norm())
            along = float(rest @ way) / length if length else 0.0
            if float(rest.square().sum()) > chance + (BENT * clip) ** 2 or abs(along) > sure + BENT * clip:
                return False
        return True


def _is_steady(answers: Answers, names: Sequence[str]) -> bool:
    if not names:
        return False
    for scale in (SMALL, 1.0):
        given = answers.at(scale)
        if len(given) < 2:
            continue
        flat = torch.stack([_flat(a, names) for a in given])
        norms, apart = flat.norm(dim=1), float((flat[0] - flat[1]).norm())
        mean = float(norms.mean())
        if apart > NOISY * mean and float(norms.max() - norms.min()) <= STEADY * mean:
            return True
    return False
