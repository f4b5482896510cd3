"""Total variation of images, whole or one by one (Rudin, Osher, Fatemi 1992)."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

Variation = Literal["anisotropic", "vectorial"]
POOLS = (nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.FractionalMaxPool2d)
SMALL = 1e-6
"""Added under the root, which has no derivative at 0."""


def total_variation(z: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Anisotropic total variation: mean absolute difference of neighbours, rows plus columns.

    As in the code of Inverting Gradients, on normalised images; its weights are those of the paper's appendix C.
    """
    return z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean()


def each_total_variation(images: Float[Tensor, "n *c h w"]) -> Float[Tensor, " n"]:
    """`total_variation` of each image, or each batch of images in a stack, by itself."""
    across, down = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return across.flatten(1).mean(1) + down.flatten(1).mean(1)


def each_vectorial_variation(images: Float[Tensor, "n *c h w"]) -> Float[Tensor, " n"]:
    """Total variation that turns with the picture and joins the channels, of each image or batch by itself.

    Mean length of the gradient of all channels together (Bresson and Chan 2008, "Fast dual minimization of the
    vectorial total variation norm"): edges cost the same in every direction, and less where all channels have them.
    """
    across, down = images.diff(dim=-1)[..., :-1, :], images.diff(dim=-2)[..., :-1]
    return (across.square() + down.square()).sum(-3).add(SMALL).sqrt().flatten(1).mean(1)


EACH_VARIATION = {"anisotropic": each_total_variation, "vectorial": each_vectorial_variation}


def weight_for(module: nn.Module, tv: float, tv_pooled: float | None) -> float:
    """The weight for a network: `tv_pooled`, if there is one, for those with max-pooling modules, else `tv`."""
    pooled = any(isinstance(m, POOLS) for m in module.modules())
    return tv_pooled if pooled and tv_pooled is not None else tv
