"""The factor that turns a multiple of an encoded example into stored data."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import CategoricalColumn, ImageSpec, TableSpec
from fedspill.inversion.codebooks.lattice import LEVELS, lattice_residual

SAMPLE = 4096
"""Pixels by which a factor is judged."""
STEP = 0.2
"""Levels by which the largest pixel moves from one factor that is tried to the next."""
MOST_TRIED = 4096
REFINED = 4


def lattice_scale(
    spec: ImageSpec | TableSpec, z: Float[Tensor, " f"], low: float, high: float
) -> tuple[float, float] | None:
    """The factor, and the residual (see `lattice.lattice_residual`) that it leaves.

    Args:
        spec: of the input.
        z: flat, the example times an unknown number.
        low: the factor is sought from here, above 0.
        high: to here.

    Returns:
        None if there is nothing to tell by.
    """
    if isinstance(spec, TableSpec):
        return _row_scale(spec, z, low, high)
    step = max(1, z.numel() // SAMPLE)
    mean, std = (z.new_tensor(v).view(-1, 1, 1).expand(spec.shape).flatten()[::step] for v in (spec.mean, spec.std))
    span = (spec.bounds[1] - spec.bounds[0]) / LEVELS
    slope, offset = z[::step] * std / span, (mean - spec.bounds[0]) / span
    high = min(high, _largest(slope, offset))
    if not 0 < low < high:
        return None
    count = min(int((high - low) * float(slope.abs().max()) / STEP) + 2, MOST_TRIED)
    tried = torch.linspace(low, high, count).to(z)
    missed = torch.cat([_missed(chunk, slope, offset) for chunk in tried.split(64)])
    factor = float(tried[missed.argmin()])
    for _ in range(REFINED):
        levels = (factor * slope + offset).round().clamp(0, LEVELS) - offset
        factor = float((levels @ slope) / (slope @ slope))
    return factor, float(_missed(z.new_tensor([factor]), slope, offset)[0])


def _largest(slope: Tensor, offset: Tensor) -> float:
    """The factor beyond which some pixel would leave the range by more than one level."""
    moving = slope != 0
    if not bool(moving.any()):
        return 0.0
    slope, offset = slope[moving], offset[moving]
    return float(torch.where(slope > 0, (LEVELS + 1 - offset) / slope, (-1 - offset) / slope).min())


def _missed(factors: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    levels = torch.outer(factors, slope) + offset
    return (levels - levels.round()).abs().mean(1)


def _row_scale(spec: TableSpec, z: Tensor, low: float, high: float) -> tuple[float, float] | None:
    """The hot entry of every category is 1."""
    parts = zip(spec.columns, z.split(spec.widths), strict=True)
    hot = [values[values.abs().argmax()] for column, values in parts if isinstance(column, CategoricalColumn)]
    top = float(torch.stack(hot).median()) if hot else 0.0
    if not top > 0 or not low <= 1 / top <= high:
        return None
    return 1 / top, float(lattice_residual(spec, z[None] / top)[0])
