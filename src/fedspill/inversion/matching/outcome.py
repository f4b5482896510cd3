"""The outcome of a gradient-matching search: its best iterate as a Reconstruction, judged without the truth."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedspill.core.inputs import InputSpec
from fedspill.core.types import Reconstruction
from fedspill.inversion.matching.hypotheses import Hypothesis, notes_on
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.inversion.search.problem import Found

TINY = 1e-30
VALID = 1e-2
"""Share of an encoded picture that may lie outside of the range of what can be encoded."""
OTHER = 1e-2
"""Relative difference from which on two pictures are not the same."""
TWINS = (
    "Another picture in the valid range has the same gradient (a multiple of this one, as the network is shown it); the"
    " one of most contrast is given."
)
ALIKE = 1e-6
"""Cosine distance of a blank picture's update below which float32 tells it from the observed one in no direction."""
NOTHING_TO_FOLLOW = (
    "A blank picture's update has the direction of the observed one, up to {:.0e}: next to nothing of it depends on the"
    " picture (labels and biases outweigh the rest, as in networks whose activations vanish), so that matching"
    " directions has nothing to follow."
)
EXACT = 1e-3
"""Share of a blank image's distance below which the picture's update is the observed one: nothing is left to search."""


def conclude(
    matching: Matching, z: Tensor, labels: Tensor, result: Found, tried: list[Hypothesis], level: float
) -> Reconstruction:
    """The reconstruction; confidence is the share of a blank image's distance that the search removed.

    Distances are cosine distances of the updates, without any prior. A blank image is the centre of the encoded
    space (the mean of the normalisation), so 0 means no closer to the observed update than nothing at all.

    Args:
        labels: as the loss takes them: classes (n,), or class probabilities (n, classes), of which the likeliest class
            is kept, or other targets, which are not put out.
        level: converged means a distance below this share of the blank image's; below `EXACT`, if the budget ended the
            search, which was on its way then.
    """
    blank = distance_to(matching, torch.zeros_like(z), labels)
    residual = distance_to(matching, z, labels) / max(blank, TINY)
    if not math.isfinite(residual) or not math.isfinite(result.value):
        residual = math.inf  # nothing but NaN was seen: no trust in it
    spec, kept = matching.model.input, tried[result.problem]
    return Reconstruction(
        inputs=spec.decode(spec.project(z.detach())),
        labels=_classes(labels),
        label_method=None if kept.label_method == "granted" else kept.label_method,
        confidence=torch.full((len(z),), max(0.0, min(1.0, 1.0 - residual))),
        objective=result.history,
        converged=residual < (level if result.complete else min(level, EXACT)),
        notes=(*_notes(result, tried), *([NOTHING_TO_FOLLOW.format(blank)] if blank < ALIKE else [])),
    )


def _classes(labels: Tensor) -> Tensor | None:
    """Classes, of probabilities the likeliest; None for targets that are no classes, such as several labels each."""
    if not labels.is_floating_point():
        return labels
    whole = labels.ndim > 1 and labels.shape[-1] > 1 and bool(((labels.sum(-1) - 1).abs() < 1e-3).all())
    return labels.argmax(-1) if whole else None


def concluded(matching: Matching, z: Tensor, labels: Tensor, tried: list[Hypothesis], level: float) -> Reconstruction:
    """`conclude` of an image that was found without a search."""
    value = distance_to(matching, z, labels)
    return conclude(matching, z, labels, Found(0, [z], value, (value,), (value,), 0, True), tried, level)


def preferred(found: Sequence[Reconstruction], pictures: Sequence[Tensor], spec: InputSpec) -> Reconstruction:
    """The one of several reconstructions of one example that the gradient and the valid range speak for most.

    In a network without biases, whose activations are linear on both sides of 0, a multiple of a picture may have the
    gradient of the picture itself; where both can be encoded, neither is certain.

    Args:
        pictures: the same, encoded.
    """
    trust = [0.0 if f.confidence is None else float(f.confidence.min()) for f in found]
    alike = [i for i, t in enumerate(trust) if t >= max(trust) - EXACT]
    outside = [float((z - spec.project(z)).norm() / z.norm().clamp_min(TINY)) for z in pictures]
    valid = [i for i in alike if outside[i] < VALID]
    best = max(valid, key=lambda i: float(pictures[i].norm())) if valid else min(alike, key=outside.__getitem__)
    size = pictures[best].norm()
    if max(trust) <= 1 - EXACT or all((pictures[i] - pictures[best]).norm() <= OTHER * size for i in valid):
        return found[best]
    half = torch.full((len(found[best].inputs),), 0.5)
    return replace(found[best], confidence=half, converged=False, notes=(*found[best].notes, TWINS))


def distance_to(matching: Matching, z: Tensor, labels: Tensor) -> float:
    """The cosine distance of the updates without any prior, infinite where it is not finite.

    In float64 where the numbers are summed, since 1 - cosine loses what is below the rounding of 1.
    """
    observed = {k: v.double() for k, v in matching.observed.values.items()}
    distance = float(cosine_distance({k: v.double() for k, v in matching.guess(z, labels).items()}, observed))
    return max(0.0, distance) if math.isfinite(distance) else math.inf


def _notes(result: Found, tried: list[Hypothesis]) -> tuple[str, ...]:
    notes = notes_on(tried, result.best_by_problem, result.problem)
    if result.diverged:
        notes += (f"{result.diverged} of the runs diverged and were given up.",)
    if result.enough:
        notes += (
            f"Stopped after {len(result.history)} iterations, at {result.estimate:.1f} dB by its own estimate, which is"
            " no bound.",
        )
    elif result.estimate is not None:
        notes += (f"By its own estimate, which is no bound, it reached {result.estimate:.1f} dB.",)
    if not result.complete:
        notes += ("The budget ended before the last iteration; this is the best so far.",)
    return notes
