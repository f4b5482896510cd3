"""NaN, infinity and zeros, pushed through a chain: what no update should hold, and what some do."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.types import Params
from fedspill.filtering.chains.chain import Chain, Offer, Refused
from fedspill.filtering.known import scaled
from fedspill.filtering.probing import LARGE

ZERO = "all zeros"
NAN, INFINITE = "one NaN", "one infinity"
UNCLIPPED = 0.5
"""Share of a thousandfold update from which it has passed a clipping that held it before."""


@dataclass(frozen=True)
class Odd:
    """What became of odd updates.

    Attributes:
        told: in words, by what was pushed.
        accepted: of these, which left with the odd value in them.
        unclips: one NaN, or one infinity, lets a thousandfold update pass that is clipped without it.
    """

    told: dict[str, str]
    accepted: tuple[str, ...]
    unclips: tuple[str, ...]


def odd_of(chain: Chain, offer: Offer, clipped: bool, first_round: int) -> Odd:
    """Pushes them, one after the other.

    Args:
        clipped: a thousandfold update is scaled down.
        first_round: number of the round of the first.
    """
    if chain.computes:
        return Odd({}, (), ())
    told, accepted, unclips, number = dict[str, str](), list[str](), list[str](), first_round
    told[ZERO] = _zeros(_answer(chain, replace(offer, change=scaled(offer.change, 0.0), round=number)), offer.change)
    for name, value in ((NAN, math.nan), (INFINITE, math.inf)):
        number += 1
        place = largest(offer.change)
        answer = _answer(chain, replace(offer, change=_with(offer.change, place, value), round=number))
        told[name] = _said(answer, place)
        accepted += [name] if not isinstance(answer, str) and _has_odd(answer) else []
        larger = _with(scaled(offer.change, LARGE), place, value)
        again = _answer(chain, replace(offer, change=larger, round=number + 1))
        number += 1
        if clipped and not isinstance(again, str) and _passed(again, larger, place):
            unclips.append(name)
    return Odd(told, tuple(accepted), tuple(unclips))


def largest(change: Params) -> str:
    """The tensor with the most values, in which the odd one is put."""
    return max((n for n, v in change.items() if v.is_floating_point()), key=lambda n: change[n].numel())


def _with(change: Params, name: str, value: float) -> Params:
    altered = change[name].clone()
    altered.view(-1)[0] = value
    return {**change, name: altered}


def _answer(chain: Chain, offer: Offer) -> Params | str:
    """What leaves, or in words why nothing does."""
    try:
        left = chain.send(offer)
    except (Refused, BadInput) as error:
        return f"refused ({error})"
    return "withheld" if left is None else left


def _has_odd(answer: Params) -> bool:
    return any(not bool(_floats(v).isfinite().all()) for v in answer.values())


def _floats(value: Tensor) -> Tensor:
    return value.flatten() if value.is_floating_point() else value.flatten().double()


def _said(answer: Params | str, place: str) -> str:
    if isinstance(answer, str):
        return answer
    bad = {n: int((~_floats(v).isfinite()).sum()) for n, v in answer.items()}
    count, total = sum(bad.values()), sum(v.numel() for v in answer.values())
    if not count:
        return "made finite" if place in answer else "dropped with its tensor"
    if count == 1:
        return "passed on"
    return f"spread to {count:,} of {total:,} values"


def _zeros(answer: Params | str, pushed: Params) -> str:
    if isinstance(answer, str):
        return answer
    if _has_odd(answer):
        return "made NaN or infinite"
    moved = any(bool(answer[n].any()) for n, v in pushed.items() if n in answer and v.is_floating_point())
    return "noised" if moved else "passed unchanged"


def _passed(answer: Params, pushed: Params, place: str) -> bool:
    """Whether the other tensors leave as large as they were pushed."""
    names = [n for n, v in pushed.items() if n != place and n in answer and v.is_floating_point()]
    names = [n for n in names if answer[n].shape == pushed[n].shape]
    sizes = _norm(answer, names), _norm(pushed, names)
    return sizes[1] > 0 and math.isfinite(sizes[0]) and sizes[0] >= UNCLIPPED * sizes[1]


def _norm(change: Params, names: Sequence[str]) -> float:
    return float(torch.stack([change[n].double().square().sum() for n in names]).sum().sqrt()) if names else 0.0
