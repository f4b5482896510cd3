"""The lattice of real data, and a candidate's distance from it. Blind: nothing but the kind of data is asked.

Pictures hold whole multiples of 1/255, tables hold categories and counts. The mean of two examples lies between
such values, so this tells one example from a mixture that is otherwise a valid input. Not in the papers.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.blocks import by_rows
from fedspill.core.inputs import CategoricalColumn, Column, ImageSpec, InputSpec, TableSpec

LEVELS = 255
"""Steps between the darkest and the brightest value of a pixel."""
FEWEST = 32
"""Pixels between the ends of the range that a picture needs to be judged."""
FINEST = 2**15
"""Steps over the range of a table's column beyond which rounding in float32 hides them."""


def lattice_residual(spec: InputSpec, z: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """Distance of encoded candidates from the nearest values that real data take, in steps, float64.

    For images, the mean over the pixels strictly inside (0.5, 254.5), of 255: about 0 for a picture of 8 bits,
    0.25 for a mixture of two. For tables, the largest over the columns: |value / step - whole number|, and for a
    category the largest distance of its block from one-hot; 0 for a row, up to 0.5 (to 1 for a category) else.

    Args:
        spec: of the inputs.
        z: encoded, each example in any shape.

    Returns:
        NaN where nothing can be said: fewer than 32 such pixels, no column with categories or steps, no image
        or table.
    """
    if isinstance(spec, ImageSpec):
        return by_rows(lambda rows: _of_images(spec, rows), z)
    if isinstance(spec, TableSpec):
        return _of_tables(spec, z)
    return z.new_full((len(z),), torch.nan, dtype=torch.float64)


def nearest(spec: InputSpec, z: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """The nearest encoded values that real data can take, in the shape, dtype and on the device of `z`."""
    if isinstance(spec, ImageSpec):
        low, high = spec.bounds
        nearest = _levels(spec, z).round() / LEVELS * (high - low) + low
        return spec.encode(nearest).to(z).view_as(z)
    exact = z.double().view(len(z), *spec.encoded_shape)
    return spec.encode(spec.decode(exact)).to(z).view_as(z)


def _levels(spec: ImageSpec, z: Tensor) -> Tensor:
    """Pixels (n, c, h, w) as numbers from 0 to 255, float64; what lies outside the range is clamped."""
    low, high = spec.bounds
    return (spec.decode(z.double().view(len(z), *spec.shape)) - low) / (high - low) * LEVELS


def _of_images(spec: ImageSpec, z: Tensor) -> Tensor:
    level = _levels(spec, z).flatten(1)
    inside = (level > 0.5) & (level < LEVELS - 0.5)
    total, count = ((level - level.round()).abs() * inside).sum(1), inside.sum(1)
    return torch.where(count >= FEWEST, total / count, torch.nan)


def _of_tables(spec: TableSpec, z: Tensor) -> Tensor:
    parts = z.double().view(len(z), sum(spec.widths)).split(spec.widths, -1)
    distances = [d for c, p in zip(spec.columns, parts, strict=True) if (d := _off(c, p)) is not None]
    if not distances:
        return z.new_full((len(z),), torch.nan, dtype=torch.float64)
    return torch.stack(distances).amax(0)


def is_coarse(column: Column) -> bool:
    """The column's values lie far enough apart to be told from one another in float32."""
    if isinstance(column, CategoricalColumn):
        return True
    return column.step is not None and (column.high - column.low) / column.step <= FINEST


def _off(column: Column, values: Float[Tensor, "n width"]) -> Tensor | None:
    """Distances (n,) of one column; None for real numbers, and for steps that float32 does not hold."""
    if isinstance(column, CategoricalColumn):
        nearest = torch.nn.functional.one_hot(values.argmax(1), values.shape[1]).to(values)
        return (values - nearest).abs().amax(1)
    if column.step is None or not is_coarse(column):
        return None
    steps = (values[:, 0] * column.std + column.mean) / column.step
    return (steps - steps.round()).abs()
