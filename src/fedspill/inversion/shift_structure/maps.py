"""The inputs of a convolution from its weight's gradient alone, where the pictures have few positions.

The gradient of B examples is (cotangents x positions) times (positions x patches), so its rows span the patches if
the layer has at least as many channels as there are positions in all examples. Of all mixtures of these rows only B
fit together as the overlapping patches of one picture, with zeros in the padding: the examples' own, and sums of them.
Not in the papers: R-GAP (Zhu and Blaschko, ICLR 2021, arXiv 2010.07733) needs the cotangents for it, and one example.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.inversion.shift_structure.krylov import largest
from fedspill.inversion.shift_structure.patches import geometry, is_plain, spread

ROUNDING = 1e-6
"""Share of the largest singular value up to which those past the rank may be rounding."""
LOST = 3e-8
"""Share of the largest singular value below which the last one of the rank is lost in rounding."""
FITS = 1e-6
"""How far from fitting together the mixtures may be, and the next one must at least be."""
MOST_POSITIONS = 256
"""In all examples; beyond, singular values and overlaps take minutes."""


def maps_by_rank(
    gradient: Float[Tensor, "o i k l"], layer: nn.Conv2d, inside: torch.Size
) -> Float[Tensor, "b i h w"] | None:
    """A basis of the span of the inputs of all examples; None where the gradient does not tell it.

    Of one example the basis is its input up to a factor, positive if the input's sum is.

    Args:
        gradient: float64, of the examples' sum or mean.
        inside: (b, i, h, w) of the input.
    """
    # Patches that overlap at their edges only, or not at all, fit together in many ways.
    if not is_plain(layer) or max(layer.stride) > 1 or min(layer.kernel_size) < 2:
        return None
    positions = inside[0] * geometry(layer, inside).output[0] * geometry(layer, inside).output[1]
    if positions > min(*gradient.flatten(1).shape, MOST_POSITIONS):
        return None
    span = row_space(gradient.flatten(1), positions)
    return None if span is None else _fitted(span.reshape(positions, *gradient.shape[1:]), layer, inside)


def row_space(rows: Float[Tensor, "o d"], rank: int) -> Float[Tensor, "r d"] | None:
    """An orthonormal basis, if the rank is what it must be."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    past = float(values[rank]) if len(values) > rank else 0.0
    if values[rank - 1] < LOST * values[0] or past > ROUNDING * float(values[0]):
        return None
    return basis[:rank]


def _fitted(span: Float[Tensor, "r i k l"], layer: nn.Conv2d, inside: torch.Size) -> Float[Tensor, "b i h w"] | None:
    """The pictures whose patches lie in the span, if there are as many as examples."""
    shape = geometry(layer, inside)
    seen = spread(span.new_ones(1, 1, *shape.output), span.new_ones(1, 1, *span.shape[2:]), shape)
    weight = seen.clamp_min(1).reciprocal()

    def pictures(mixtures: Tensor) -> Tensor:
        # Every pixel the mean of what the patches say of it.
        return spread(mixtures.reshape(-1, len(span), *shape.output), span, shape) * weight

    def agreeing(mixtures: Tensor) -> Tensor:
        # An orthogonal projection, from mixtures to pictures, seen from the mixtures: 1 is perfect agreement.
        return functional.conv2d(
            pictures(mixtures), span, stride=shape.stride, padding=shape.padding, dilation=shape.dilation
        ).flatten(1)

    size, count = len(span) * shape.output[0] * shape.output[1], inside[0]
    if size <= count:
        return None
    values, vectors = largest(agreeing, size, count + 1, span)
    if values[count - 1] < 1 - FITS or values[count] > 1 - FITS:
        return None
    found = pictures(vectors[:count])
    return found * found.sum((1, 2, 3), keepdim=True).sign()
