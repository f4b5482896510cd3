"""Stored data lie on a lattice (whole multiples of 1/255, one-hot categories, whole numbers); mixtures do not."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec, NumericColumn, TableSpec

LEVELS = 255
"""Steps between the bounds of an 8-bit picture."""
LEAST_PIXELS = 32
"""Pixels strictly inside the bounds, below which nothing is said of a picture."""


def lattice_residual(spec: ImageSpec | TableSpec, z: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Mean distance of encoded examples to the lattice, in its steps: about 0 for stored data, 0.25 for a mixture.

    Pixels at the bounds (and beyond) do not count, since a mixture of two saturated pixels is saturated. NaN for
    pictures with fewer than 32 pixels inside the bounds, and for tables without categories and stepped columns.
    """
    if isinstance(spec, ImageSpec):
        levels = _levels(spec, z).flatten(1)
        inside = (levels > 0.5) & (levels < LEVELS - 0.5)
        gap = (levels - levels.round()).abs().where(inside, 0.0)
        number = inside.sum(1)
        return (gap.sum(1) / number).where(number >= LEAST_PIXELS, torch.nan)
    gaps = [
        g for c, part in zip(spec.columns, z.split(spec.widths, -1), strict=True) if (g := _gap(c, part)) is not None
    ]
    # The worst column: a mixture of two rows may agree in all but one.
    return torch.stack(gaps, 1).amax(1) if gaps else z.new_full((len(z),), torch.nan)


def snap(spec: ImageSpec | TableSpec, z: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """The nearest point of the lattice."""
    if isinstance(spec, ImageSpec):
        mean, std = z.new_tensor(spec.mean).view(-1, 1, 1), z.new_tensor(spec.std).view(-1, 1, 1)
        low, high = spec.bounds
        pixels = _levels(spec, z).round().clamp(0, LEVELS) / LEVELS * (high - low) + low
        return (pixels - mean) / std
    return spec.encode(spec.decode(z))


def _levels(spec: ImageSpec, z: Tensor) -> Tensor:
    mean, std = z.new_tensor(spec.mean).view(-1, 1, 1), z.new_tensor(spec.std).view(-1, 1, 1)
    low, high = spec.bounds
    return (z * std + mean - low) / (high - low) * LEVELS


def _gap(column: object, part: Tensor) -> Tensor | None:
    """In steps, at most 0.5; None for real numbers."""
    if not isinstance(column, NumericColumn):
        return (part - part.round().clamp(0, 1)).abs().amax(-1).clamp_max(0.5)
    if column.step is None:
        return None
    steps = (part[..., 0] * column.std + column.mean) / column.step
    return (steps - steps.round()).abs()


def lattice_scale(
    spec: ImageSpec | TableSpec, z: Float[Tensor, " f"], low: float, high: float
) -> tuple[float, float] | None:
    """The factor that turns a multiple of an encoded example into stored data, and the residual that it leaves.

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
    part, span = z[::step], (spec.bounds[1] - spec.bounds[0]) / LEVELS
    slope, offset = part * std / span, (mean - spec.bounds[0]) / span
    # Pixels that would leave the range rule a factor out.
    limit = torch.where(slope > 0, (LEVELS + 1 - offset) / slope, (-1 - offset) / slope)
    high = min(high, float(limit[slope != 0].min())) if bool((slope != 0).any()) else high
    if not 0 < low < high:
        return None
    count = int((high - low) * float(slope.abs().max()) / STEP) + 2
    tried = torch.linspace(low, high, min(count, MOST_TRIED)).to(z)
    best = min(
        ((_missed(part_of, slope, offset), part_of) for part_of in tried.split(64)), key=lambda r: float(r[0].min())
    )
    factor = float(best[1][best[0].argmin()])
    for _ in range(REFINED):
        levels = (factor * slope + offset).round().clamp(0, LEVELS) - offset
        factor = float((levels @ slope) / (slope @ slope))
    return factor, float(_missed(z.new_tensor([factor]), slope, offset)[0])


SAMPLE = 4096
"""Pixels by which a factor is judged."""
STEP = 0.2
"""Levels by which the largest pixel moves from one factor that is tried to the next."""
MOST_TRIED = 4096
REFINED = 4


def _missed(factors: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
    levels = torch.outer(factors, slope) + offset
    return (levels - levels.round()).abs().mean(1)


def _row_scale(spec: TableSpec, z: Tensor, low: float, high: float) -> tuple[float, float] | None:
    """The hot entry of every category is 1."""
    hot = [p[p.abs().argmax()] for c, p in zip(spec.columns, z.split(spec.widths), strict=True) if _is_category(c)]
    if not hot:
        return None
    factor = 1 / float(torch.stack(hot).median())
    if not low <= factor <= high:
        return None
    return factor, float(lattice_residual(spec, factor * z[None])[0])


def _is_category(column: object) -> bool:
    return not isinstance(column, NumericColumn)
