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
