"""What became of each tensor: compared with what was pushed, value by value and push by push."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fedspill.core.model import Model
from fedspill.core.types import Params
from fedspill.filtering.known import kind_of
from fedspill.filtering.noise import floor, spread, stack
from fedspill.filtering.probing import Answers
from fedspill.report.filtering import Fate

ALIKE = 1e-3
"""Relative difference of quotients up to which a tensor was scaled as a whole."""
FEW = 256
"""Different values up to which a tensor may have been quantised."""
CUT, QUANTISED = "values cut off at ", "quantised to "
"""How these fates begin."""
SURE = 6.0
"""Standard errors from which a scale differs from 1."""


def fates_of(
    answers: Answers, received: Params, model: Model, weights: bool, factor: float | None = None
) -> tuple[Fate, ...]:
    """One per tensor that was pushed, and one per tensor that only came out.

    Args:
        received: what the server sent.
        weights: the chain works on weights, so that a change is known no better than these are rounded.
        factor: by which the whole update was scaled, where that is known; noise hides it in a single tensor.
    """
    own = [
        _fate(n, v, answers.usual, received[n] if weights else None, model, factor if v.is_floating_point() else None)
        for n, v in answers.offered.items()
    ]
    return (*own, *_foreign(answers))


def _foreign(answers: Answers) -> Iterator[Fate]:
    for name, value in (answers.usual[0] if answers.usual else {}).items():
        if name not in answers.offered:
            yield Fate(name, "added", value.numel(), ("made by the chain",), 0.0, None, 0.0, 0.0, 0.0)


def _fate(
    name: str,
    offered: Tensor,
    outs: Sequence[Params],
    weight: Tensor | None,
    model: Model,
    factor: float | None,
) -> Fate:
    kind = kind_of(name, offered, model)
    there = [a for a in outs if name in a]
    if not there:
        return _gone(name, kind, offered, "withheld" if not outs else "dropped")
    first = there[0][name]
    if first.shape != offered.shape:
        word = f"reshaped from {tuple(offered.shape)} to {tuple(first.shape)}"
        return Fate(name, kind, offered.numel(), (word,), 0.0, None, 0.0, 0.0, 0.0)
    values, pushed = stack(there, name), offered.detach().double().flatten()
    least = max(floor(offered, weight), floor(first, weight) if first.dtype == offered.dtype else 0.0)
    noise, differ = spread(values, least)
    scale = _scale(values, pushed)
    words = [f"dropped in {len(outs) - len(there)} of {len(outs)} pushes"] if len(there) < len(outs) else []
    words += [f"as {str(first.dtype).removeprefix('torch.')}"] if first.dtype != offered.dtype else []
    words += _words(values, pushed, scale if factor is None else factor, noise, differ, least, factor is not None)
    return Fate(
        name, kind, len(pushed), tuple(words), scale, _cosine(values, pushed), _kept(values, pushed), noise, differ
    )


def _gone(name: str, kind: str, offered: Tensor, word: str) -> Fate:
    return Fate(name, kind, offered.numel(), (word,), None, None, 0.0, 0.0, 0.0)


def _scale(values: Tensor, pushed: Tensor) -> float:
    """Of the part that points the way of what was pushed; 0 where nothing was pushed."""
    length = float(pushed.square().sum())
    return float((values @ pushed).mean()) / length if length else 0.0


def _cosine(values: Tensor, pushed: Tensor) -> float | None:
    sizes = values.norm(dim=1) * pushed.norm()
    if not bool((sizes > 0).all()):
        return None
    return float(((values @ pushed) / sizes).mean())


def _kept(values: Tensor, pushed: Tensor) -> float:
    held = pushed != 0
    return float((values[:, held] != 0).double().mean()) if bool(held.any()) else 1.0


def _words(
    values: Tensor, pushed: Tensor, scale: float, noise: float, differ: float, least: float, known: bool
) -> list[str]:
    if not noise:
        return _steady_words(values[0], pushed, least)
    error = 0.0 if known else noise / max(float(pushed.norm()) * len(values) ** 0.5, 1e-300)
    clipped = "clipped" if known and not scale else f"clipped x {scale:.3g}"
    words = [clipped] if scale < 1 - max(SURE * error, ALIKE) else []
    zeros = 1 - _kept(values, pushed)
    words += [f"{zeros:.0%} of its values set to 0"] if zeros > 0 else []
    words += [f"noised (std {noise:.3g})" + (f" in {differ:.0%} of its values" if differ < 1 else "")]
    return words


def _steady_words(out: Tensor, pushed: Tensor, least: float) -> list[str]:
    """Of a tensor that is the same in every push."""
    if bool(((out - pushed).abs() <= least).all()):
        return ["passed unchanged"]
    if not bool(out.any()):
        return ["set to 0"]
    zeros = 1 - _kept(out[None], pushed)
    words = [f"pruned ({zeros:.0%} set to 0)"] if zeros > 0 else []
    both = (out != 0) & (pushed.abs() > 0)
    return words + (_kept_words(out[both], pushed[both], least) if bool(both.any()) else ["replaced"])


def _kept_words(out: Tensor, pushed: Tensor, least: float) -> list[str]:
    """Of the values that are still there."""
    ratio = float((out @ pushed) / (pushed @ pushed))
    if bool(((out - ratio * pushed).abs() <= ALIKE * pushed.abs() * abs(ratio) + least).all()):
        return (
            [] if abs(ratio - 1) <= ALIKE else [f"clipped x {ratio:.3g}" if 0 < ratio < 1 else f"scaled x {ratio:.3g}"]
        )
    top = float(out.abs().max())
    capped = out.abs() >= top * (1 - 1e-6)
    free = ~capped
    untouched = (out[free] - pushed[free]).abs() <= ALIKE * pushed[free].abs() + least
    if bool(free.any()) and bool(untouched.all()) and bool((pushed[capped].abs() >= top * (1 - ALIKE)).all()):
        return [f"{CUT}{top:.3g} ({float(capped.double().mean()):.0%} of what is left)"]
    levels = len(out.unique())
    if levels <= FEW and levels <= max(len(pushed.unique()) / 2, 2):
        return [f"{QUANTISED}{levels} values"]
    return ["altered"]


def whole_cosine(answers: Answers) -> float | None:
    """Of everything that leaves with everything that was pushed, what is missing taken as 0; the mean over pushes."""
    found = list[float]()
    for answer in answers.usual:
        pairs = [_pair(v, answer.get(n)) for n, v in answers.offered.items() if v.is_floating_point()]
        pushed, out = (torch.cat([p[k] for p in pairs]) for k in (0, 1))
        sizes = float(pushed.norm() * out.norm())
        found += [float(pushed @ out) / sizes] if sizes > 0 else []
    return sum(found) / len(found) if found else None


def _pair(pushed: Tensor, out: Tensor | None) -> tuple[Tensor, Tensor]:
    flat = pushed.detach().double().flatten()
    fits = out is not None and out.shape == pushed.shape
    return flat, out.detach().double().flatten() if out is not None and fits else torch.zeros_like(flat)
