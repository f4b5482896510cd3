"""The input of a convolution from its weight's gradient alone, where the picture has few positions.

The gradient of one example is (cotangents x positions) times (positions x patches), so its rows span the patches if
the layer has at least as many channels as positions. Of all mixtures of these rows only one, up to a factor, fits
together as the overlapping patches of one picture. Not in the papers: R-GAP (Zhu and Blaschko, ICLR 2021, arXiv
2010.07733) needs the cotangents for it.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse import linalg
from torch import Tensor, nn
from torch.nn import functional

from fedspill.inversion.recursion.patches import geometry, is_plain, spread

ROUNDING = 1e-6
"""Share of the largest singular value up to which those past the rank may be rounding."""
LOST = 3e-8
"""Share of the largest singular value below which the last one of the rank is lost in rounding."""
FITS = 1e-6
"""How far from fitting together the best mixture may be, and the second best must at least be."""
MOST_POSITIONS = 256
LANCZOS = 20


def input_by_rank(
    gradient: Float[Tensor, "o i k l"], layer: nn.Conv2d, inside: torch.Size
) -> Float[Tensor, "1 i h w"] | None:
    """The layer's input up to a positive factor, if its sum is positive; None where the gradient does not tell it.

    Args:
        gradient: float64, of one example.
        inside: (1, i, h, w) of the input.
    """
    # Patches that overlap at their edges only, or not at all, fit together in many ways.
    if not is_plain(layer) or max(layer.stride) > 1 or min(layer.kernel_size) < 2:
        return None
    positions = geometry(layer, inside).output[0] * geometry(layer, inside).output[1]
    if positions > min(*gradient.flatten(1).shape, MOST_POSITIONS):
        return None
    span = _row_space(gradient.flatten(1), positions)
    return None if span is None else _fitted(span.reshape(positions, *gradient.shape[1:]), layer, inside)


def _row_space(rows: Float[Tensor, "o d"], rank: int) -> Float[Tensor, "r d"] | None:
    """An orthonormal basis, if the rank is what it must be."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    past = float(values[rank]) if len(values) > rank else 0.0
    if values[rank - 1] < LOST * values[0] or past > ROUNDING * float(values[0]):
        return None
    return basis[:rank]


def _fitted(span: Float[Tensor, "r i k l"], layer: nn.Conv2d, inside: torch.Size) -> Float[Tensor, "1 i h w"] | None:
    """The picture whose patches lie in the span, if there is only one."""
    shape = geometry(layer, inside)
    seen = spread(span.new_ones(1, 1, *shape.output), span.new_ones(1, 1, *span.shape[2:]), shape)
    weight = seen.clamp_min(1).reciprocal()

    def picture(mixture: np.ndarray) -> Tensor:
        # Every pixel the mean of what the patches say of it.
        given = torch.from_numpy(np.ascontiguousarray(mixture)).to(span).reshape(1, len(span), *shape.output)
        return spread(given, span, shape) * weight

    def agreeing(mixture: np.ndarray) -> np.ndarray:
        # An orthogonal projection, from mixtures to pictures, seen from the mixtures: 1 is perfect agreement.
        agreement = functional.conv2d(
            picture(mixture), span, stride=shape.stride, padding=shape.padding, dilation=shape.dilation
        )
        return agreement.reshape(-1).cpu().numpy()

    size = len(span) * shape.output[0] * shape.output[1]
    if size <= LANCZOS:
        return None
    scipy: Any = linalg  # its types know neither the keywords nor a tolerance below 1
    operator = scipy.LinearOperator((size, size), matvec=agreeing, dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(size)
    values, vectors = scipy.eigsh(operator, k=2, which="LA", tol=1e-10, ncv=LANCZOS, v0=start)
    if values[1] < 1 - FITS or values[0] > 1 - FITS:
        return None
    image = picture(vectors[:, 1])
    return image * image.sum().sign()
