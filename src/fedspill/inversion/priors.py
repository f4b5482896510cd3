"""What is known of images before anything was observed."""

from jaxtyping import Float
from torch import Tensor


def total_variation(z: Float[Tensor, "n c h w"]) -> Float[Tensor, ""]:
    """Anisotropic total variation: mean absolute difference of neighbours, rows plus columns.

    As in the code of Inverting Gradients, on normalised images; its weights are those of the paper's appendix C.
    """
    return z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean()


def each_total_variation(images: Float[Tensor, "n *c h w"]) -> Float[Tensor, " n"]:
    """`total_variation` of each image, or each batch of images in a stack, by itself."""
    across, down = images.diff(dim=-1).abs(), images.diff(dim=-2).abs()
    return across.flatten(1).mean(1) + down.flatten(1).mean(1)
