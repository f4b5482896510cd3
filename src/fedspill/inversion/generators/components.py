"""The linear generator: the mean of public images and their principal components, found in closed form in seconds.

Its images have the mean and the covariance of natural ones, and nothing else of them. It is what stands in for a
trained generator where public images are at hand and nobody trained one.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import NotApplicable
from fedspill.inversion.generators.generator import Generator

MOST = 1000
"""Public images that are used, evenly out of all."""
LEAST = 8
"""Public images below which there is nothing to learn."""


class Components(nn.Module):
    """Latents (n, k) to images (n, c, h, w); values beyond `bounds` are cut off."""

    mean: Tensor

    def __init__(self, mean: Float[Tensor, "c h w"], spread: Float[Tensor, "k d"], bounds: tuple[float, float]) -> None:
        super().__init__()
        self.bounds = bounds
        self.register_buffer("mean", mean)
        self.spread = nn.Parameter(spread)

    def forward(self, latents: Float[Tensor, "n k"]) -> Float[Tensor, "n c h w"]:
        """The mean and the components, each as often as its latent says."""
        return (self.mean + (latents @ self.spread).view(len(latents), *self.mean.shape)).clamp(*self.bounds)


def components_generator(
    public: Float[Tensor, "n c h w"], most: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Generator:
    """The generator of public images, as people see them.

    Args:
        public: on any device.
        most: components that are kept, those of the largest variance.
        bounds: of images.

    Raises:
        NotApplicable: there are fewer than 8 images, or all are alike.
    """
    if len(public) < LEAST:
        raise NotApplicable(f"{len(public)} public images were granted; at least {LEAST} are needed for a generator")
    chosen = public[torch.linspace(0, len(public) - 1, min(MOST, len(public))).round().long()].double()
    mean = chosen.mean(0)
    apart = (chosen - mean).flatten(1)
    values, vectors = torch.linalg.eigh(apart @ apart.T)
    kept = [i for i in reversed(range(len(values))) if float(values[i]) > 1e-9 * float(values[-1])][:most]
    if not kept or float(values[-1]) <= 0:
        raise NotApplicable("the public images that were granted are all alike, so that they tell nothing of others")
    spread = (vectors[:, kept].T @ apart) / len(chosen) ** 0.5
    shape = (public.shape[1], public.shape[2], public.shape[3])
    module = Components(mean.float(), spread.float(), bounds)
    return Generator.of(module, (len(kept),), shape, f"of the components of {len(chosen)} public images")
