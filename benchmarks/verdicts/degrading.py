"""Reconstructions of one image at many levels: attacks that were stopped early or saw noise, and damage by hand."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from fedspill.attacks.inverting_gradients import InvertingGradients, TotalVariation
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, local_update
from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.settings import with_fields
from fedspill.core.types import Batch, Update
from fedspill.inversion.search.settings import SearchSettings

STEPS = (8, 32, 64, 200)
NOISES = (0.3, 3.0)
ATTACK = InvertingGradients(search=SearchSettings(restarts=1), prior=TotalVariation(tv=1e-3))
Degraded = tuple[str, float, Tensor]
"""Kind, level, and the picture (c, h, w) in [0, 1]."""


def attacked(model: Model, private: Batch, seed: int) -> Iterator[Degraded]:
    """What Inverting Gradients makes of one image's gradient, by iterations, and by noise on the gradient."""
    update = local_update(model, private, FedSGD())
    for steps in STEPS:
        yield "search, iterations", steps, _search(model, update, private, steps, seed)
    rng, size = stream(seed, "gradient noise"), update.norm()
    count = sum(v.numel() for v in update.values.values())
    for level in NOISES:
        noised = {
            k: v + torch.randn(v.shape, generator=rng) * level * size / count**0.5 for k, v in update.values.items()
        }
        yield "search, noise on the gradient", level, _search(model, Update(update.kind, noised), private, 64, seed)


def _search(model: Model, update: Update, private: Batch, steps: int, seed: int) -> Tensor:
    knowledge = ServerKnowledge(model, 1, len(private), private.labels, FedSGD(), None, None)
    attack = with_fields(ATTACK, steps=steps)
    return attack.reconstruct(update, knowledge, stream(seed, "attack", steps)).inputs[0].float()


def degraded(x: Tensor, other: Tensor, seed: int) -> Iterator[Degraded]:
    """Blurs, noise, mixtures with another image, coarser pixels, and less contrast of an image (c, h, w)."""
    rng = stream(seed, "degraded")
    for sigma in (0.5, 1.0, 2.0, 4.0):
        yield "blur, sigma in pixels", sigma, _blurred(x, sigma)
    for sigma in (0.05, 0.1, 0.2, 0.4, 1.0):
        yield "noise, sigma", sigma, (x + sigma * torch.randn(x.shape, generator=rng)).clamp(0, 1)
    for share in (0.9, 0.75, 0.6, 0.5, 0.4, 0.25, 0.1):
        yield "mixture, share of the image", share, share * x + (1 - share) * other
    for cells in (16, 8, 4, 2):
        coarse = functional.adaptive_avg_pool2d(x[None], cells)
        yield "coarse, cells a side", cells, functional.interpolate(coarse, x.shape[-2:])[0]
    for contrast in (0.7, 0.4, 0.2, 0.1):
        yield "contrast", contrast, 0.5 + contrast * (x - x.mean((1, 2), keepdim=True))
    for pixels in (1, 2, 4):
        yield "shift, pixels", pixels, torch.roll(x, (pixels, pixels), (1, 2))
    yield "mirror", 1, x.flip(2)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=x.dtype)
    bell = torch.exp(-(at**2) / (2 * sigma**2))
    bell = (bell / bell.sum()).expand(len(x), 1, 1, -1)
    wide = functional.pad(x[None], (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(wide, bell, groups=len(x)), bell.mT, groups=len(x))[0]
