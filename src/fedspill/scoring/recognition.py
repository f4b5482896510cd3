"""Is an example recognisable in its reconstruction? From when, and why from then, says docs/verdicts.md.

A picture is recognisable if it is told from 100 others by what was rebuilt of it, and what was rebuilt is closer than a
guess without the update. Sentences and rows are if so much more of them is right than of a guess.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.roles import Metric
from fedspill.scoring.identification import SAME
from fedspill.scoring.metrics.images import SSIM_MIN_SIZE

DISTRACTORS = 100
SIDE = 64
"""Pixels on the longer side beyond which pictures are compared as thumbnails."""
SIMILARITY = 0.2
"""SSIM above that of the guess from which the target's being nearest by SSIM alone is enough; PSNR is from above 0."""
DECIBELS = 3.0
"""PSNR above that of the guess from which it is where the guess tells the target, too."""
UNGUESSED = 0.25
"""Share of positions that a guess of a sentence has right where no public ones are at hand to make any."""
FEWEST = 20
"""Others from which on a sentence or a row is told from them; with less its own margin alone decides."""


@dataclass(frozen=True)
class Margins:
    """Shares of positions or cells above the guess from which an example is recognisable.

    Attributes:
        told: if it is told from others as well.
        alone: if there are no others to tell it from.
    """

    told: float
    alone: float


TOKENS = Margins(0.15, 0.3)
CELLS = Margins(0.15, 0.4)


def told(metric: Metric, rebuilt: Tensor, target: Tensor, others: Tensor, guessed: float, margins: Margins) -> bool:
    """Whether a sentence or row is recognisable: more of it is right than of each other, and than of a guess.

    Args:
        metric: share of positions or cells that are right.
        rebuilt: (t,) as `target`.
        others: (m, t); equal ones are no rivals.
        guessed: what the guess has right.
    """
    rivals = others[(others != target).any(1)]
    right = metric(rebuilt.expand(len(rivals) + 1, -1), torch.cat([target[None], rivals]))
    gained = float(right[0]) - guessed
    if len(rivals) < FEWEST:
        return gained >= margins.alone
    return gained >= margins.told and bool(right[0] > right[1:].max())


@dataclass(frozen=True)
class Closeness:
    """How close a picture is to its target, beside a guess.

    Attributes:
        decibels: PSNR above that of the guess.
        similarity: SSIM above that of the guess.
    """

    decibels: float
    similarity: float

    @property
    def clear(self) -> bool:
        """Whether it is closer by a margin: asked as well where the others are not of the target's kind."""
        return self.decibels >= DECIBELS or self.similarity >= SIMILARITY


def closeness(picture: Tensor, target: Tensor, guess: Tensor) -> Closeness:
    """Of thumbnails (c, h, w) in [0, 1]."""
    pair, truth = torch.stack([picture, guess]), target[None]
    errors = (pair - truth).square().flatten(1).mean(1).clamp(min=1e-10).log10()
    decibels = float(10 * (errors[1] - errors[0]))
    if not _has_structure(target):
        return Closeness(decibels, 0.0)
    alike = similarities(pair, truth)
    return Closeness(decibels, float(alike[0] - alike[1]))


def recognised(picture: Tensor, target: Tensor, others: Tensor, guess: Tensor) -> bool:
    """Whether a picture tells its target from others (m, c, h, w); all are thumbnails in [0, 1].

    The target is nearest by pixels and by SSIM, which it is not to the guess; or by pixels, and the picture has a
    higher PSNR than the guess (by a margin, if the guess would tell the target, too: the others are no rivals then); or
    by SSIM, and the picture's is higher by a margin. Equal pictures are no rivals.
    """
    rivals = others[(others - target).square().flatten(1).sum(1).sqrt() >= SAME]
    close, (by_pixels, by_structure) = closeness(picture, target, guess), _nearest(picture, target, rivals)
    guessed = _nearest(guess, target, rivals)
    if by_pixels and by_structure and not all(guessed):
        return True
    enough = close.decibels >= DECIBELS if guessed[0] else close.decibels > 0
    return (by_pixels and enough) or (by_structure and close.similarity >= SIMILARITY)


def _nearest(picture: Tensor, target: Tensor, rivals: Tensor) -> tuple[bool, bool]:
    """Whether the target is nearer than every rival: by pixels, and by SSIM."""
    gap = (picture - target).square().sum()
    by_pixels = bool(gap < (rivals - picture).square().flatten(1).sum(1).min())
    if not _has_structure(target):
        return by_pixels, False
    every = similarities(torch.cat([target[None], rivals]), picture[None])
    return by_pixels, bool(every[0] > every[1:].max())


def _has_structure(image: Tensor) -> bool:
    """Whether a window of SSIM fits into it; else pixels alone decide."""
    return min(image.shape[-2:]) >= SSIM_MIN_SIZE


def similarities(first: Float[Tensor, "n c h w"], second: Float[Tensor, "m c h w"]) -> Float[Tensor, " n"]:
    """SSIM as `metrics.SSIM` has it, in float32; m is n or 1."""
    a, b = _local(first), _local(second)
    aa, bb, ab = _local(first**2) - a**2, _local(second**2) - b**2, _local(first * second) - a * b
    values = (2 * a * b + 1e-4) * (2 * ab + 9e-4) / ((a**2 + b**2 + 1e-4) * (aa + bb + 9e-4))
    return values.flatten(1).mean(1)


def _local(images: Tensor) -> Tensor:
    """Means over a Gaussian window of 11 pixels, sigma 1.5, one direction after the other."""
    c, at = images.shape[1], torch.arange(11, dtype=images.dtype) - 5
    bell = torch.exp(-(at**2) / 4.5)
    row = (bell / bell.sum()).expand(c, 1, 1, 11)
    return functional.conv2d(functional.conv2d(images, row, groups=c), row.mT, groups=c)


def thumbnails(images: Tensor) -> Float[Tensor, "n c h w"]:
    """Images (n, c, h, w) as they are compared: clamped to [0, 1], and at most 64 pixels a side."""
    images = images.detach().cpu().float().clamp(0, 1)
    height, width = images.shape[-2:]
    if (longest := max(height, width)) > SIDE:
        size = (max(1, round(height * SIDE / longest)), max(1, round(width * SIDE / longest)))
        return functional.adaptive_avg_pool2d(images, size)
    return images
