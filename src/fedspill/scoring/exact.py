"""Which candidates are exact copies of which private examples; no assignment, so duplicates are told as well."""

import torch
from jaxtyping import Bool
from torch import Tensor

from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec
from fedspill.scoring.distances import same_examples
from fedspill.scoring.metrics import PSNR
from fedspill.scoring.metrics.rows import EXACT_ROW

EXACT_PSNR = 60.0
"""dB from which a rebuilt image counts as an exact copy: a root mean squared error of a thousandth."""


def exact_copies(rebuilt: Tensor, private: Tensor, spec: InputSpec) -> Bool[Tensor, "m n"]:
    """Which of m candidates equal which of n private examples, on the CPU.

    Images are equal from `EXACT_PSNR`, rows of a table by `EXACT_ROW`, sentences token by token.

    Raises:
        BadInput: the shapes of the examples differ.
    """
    same_examples(rebuilt, private)
    candidates = rebuilt.to(private.device)
    if isinstance(spec, ImageSpec):
        return _same_images(candidates, private).cpu()
    rows = [_same(candidate.expand_as(private), private, spec) for candidate in candidates]
    return torch.stack(rows).cpu() if rows else torch.zeros((0, len(private)), dtype=torch.bool)


def _same(candidates: Tensor, private: Tensor, spec: InputSpec) -> Tensor:
    if isinstance(spec, TableSpec):
        return EXACT_ROW.of(spec)(candidates, private) == 1
    return (candidates == private).flatten(1).all(1)


def _same_images(candidates: Tensor, private: Tensor) -> Tensor:
    # Means of two images differ by no more than their root mean squared error: few pairs are left to compare.
    near = (_means(candidates)[:, None] - _means(private)[None]).abs() <= 2 * 10 ** (-EXACT_PSNR / 20)
    same = torch.zeros_like(near)
    for row, column in near.nonzero().tolist():
        pair = candidates[row : row + 1], private[column : column + 1]
        same[row, column] = bool(PSNR()(*pair) >= EXACT_PSNR)
    return same


def _means(images: Tensor) -> Tensor:
    values = [image.double().clamp(0, 1).mean() for image in images]
    return torch.stack(values) if values else images.new_zeros(0, dtype=torch.float64)
