"""Clipping and noise of a whole update, the parts that mechanisms are made of."""

import math
from typing import Literal

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand, randn
from fedspill.core.types import Update


def clipped(update: Update, norm: float) -> Update:
    """The update u times min(1, norm / ||u||), over all values as one vector; BatchNorm statistics stay as they are.

    Raises:
        BadInput: the update holds NaN or infinity, which no factor shortens.
    """
    size = update.norm()
    if not math.isfinite(size):
        raise BadInput("the update holds NaN or infinite values, which cannot be clipped; nothing is sent")
    scale = min(1.0, norm / max(size, 1e-300))
    return Update(update.kind, {k: v * scale for k, v in update.values.items()}, update.buffers)


Distribution = Literal["laplace", "gaussian"]


def noised(update: Update, sigma: float, distribution: Distribution, rng: torch.Generator) -> Update:
    """The update with independent noise of standard deviation `sigma` on every value."""
    draw = _laplace if distribution == "laplace" else _gaussian
    return Update(update.kind, {k: v + sigma * draw(v, rng) for k, v in update.values.items()}, update.buffers)


def _gaussian(like: Tensor, rng: torch.Generator) -> Tensor:
    return randn(tuple(like.shape), rng, like)


def _laplace(like: Tensor, rng: torch.Generator) -> Tensor:
    """Noise of variance 1."""
    uniform = rand(tuple(like.shape), rng, like) - 0.5
    return -uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-12).log() / 2**0.5
