"""How close to the private images a search seems to be, by what a server sees: an estimate, not a bound."""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.inversion.matching.outcome import distance_to
from fedspill.inversion.objective.matching import Matching

EXPLAINED_AT = 0.0
"""dB that images seem to have whose update is as far from the observed one as a blank image's (calibrated)."""
SHARED = 2.0
"""dB by which runs agree better than they are right, for the errors that they share (calibrated)."""
CAP = 100.0
"""dB; as PSNR is capped elsewhere."""


def agreement(images: Float[Tensor, "r n c h w"], span: float = 1.0) -> float:
    """Mean PSNR in dB between what r >= 2 independent runs found, over pairs of runs and over images.

    If the errors of runs are independent, their mean squared difference is twice the mean squared error; errors that
    all runs share (a prior's, a wrong label's) are not seen.

    Args:
        images: as people see them; the order within a batch must be the same, as known labels make it.
        span: of the pixels' range.
    """
    pairs = [(i, j) for i in range(len(images)) for j in range(i)]
    errors = torch.stack([(images[i] - images[j]).square().flatten(1).mean(1) for i, j in pairs]) / span**2
    return float((-10 * errors.clamp_min(10 ** (-CAP / 10)).log10()).mean())


def explained(residual: float) -> float:
    """Decibels for the share of a blank image's cosine distance of updates that is left.

    As if the distance were quadratic in the error of the images, which near the truth it is.
    """
    if not math.isfinite(residual):
        return -math.inf
    return min(CAP, EXPLAINED_AT - 10 * math.log10(max(residual, 10 ** (-CAP / 10))))


def combined(agreement: float, residual: float) -> float:
    """The estimate in dB: runs must agree, and the update must be explained (docs/performance.md)."""
    return min(agreement - SHARED, explained(residual))


def estimator(matching: Matching, labels: Tensor) -> Callable[[list[Tensor]], float] | None:
    """What `Problem.estimate` takes, of images with known labels; None where the inputs are no images."""
    spec = matching.model.input
    if not isinstance(spec, ImageSpec):
        return None
    low, high = spec.bounds

    @functools.cache
    def blank(shape: torch.Size) -> float:
        return distance_to(matching, matching.model.like.new_zeros(shape), labels)

    def estimate(variables: list[Tensor]) -> float:
        z = variables[0].detach()
        images = torch.stack([spec.decode(spec.project(one)) for one in z])
        least = min(distance_to(matching, one, labels) for one in z)
        return combined(agreement(images, high - low), least / max(blank(z.shape[1:]), 1e-30))

    return estimate
