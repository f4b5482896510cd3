"""Deep image prior: an untrained U-Net whose weights are searched in the place of an image's pixels.

Ulyanov, Vedaldi, Lempitsky: "Deep Image Prior", CVPR 2018, arXiv 1711.10925 (the network with skips of its supplement,
section "Inpainting"); Dabholkar et al. 2025 (Maui, arXiv 2509.11451, section 6.3): the latent has the image's shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import BadInput
from fedspill.core.rng import rand

SLOPE = 0.2
"""Of the leaky ReLUs."""
LATENT = 0.1
"""The latent is drawn from U(0, LATENT)."""


@dataclass(frozen=True)
class UNet:
    """An image generator with skips; m independent ones run side by side as grouped convolutions.

    Each scale halves the sides by a strided 3x3 convolution, follows with another, and on the way up joins a thin skip
    with what came from below by a 3x3 and a 1x1 convolution. Every convolution but the last has a norm per channel and
    image with scale and shift, and a leaky ReLU. As no norm crosses images, no image depends on another.

    Attributes:
        widths: channels of each scale. Three scales suit 32x32; for 224x224 take five, of 32 or (as in the paper of the
            prior) 128. Scales below which fewer than 2 pixels a side would remain are left out.
        skip: channels of each skip.

    Raises:
        BadInput: a number is below 1, or there is no scale.
    """

    widths: tuple[int, ...] = (32, 32, 32)
    skip: int = 4

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or self.skip < 1:
            raise BadInput(f"widths={self.widths}, skip={self.skip}: at least one scale, and widths of 1 or more")

    def scales(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The widths of those scales that an image of this shape has room for.

        Raises:
            BadInput: a side is below 3 pixels.
        """
        side, kept = min(shape[1:]), list[int]()
        for width in self.widths:
            side = (side + 1) // 2
            if side < 2:
                break
            kept.append(width)
        if not kept:
            raise BadInput(f"images of {shape[1]}x{shape[2]} pixels were got; a U-Net needs at least 3 each way")
        return tuple(kept)

    def convolutions(self, shape: tuple[int, int, int]) -> dict[str, tuple[int, int, int]]:
        """Name of each convolution with its output channels, input channels and side, in the order of drawing."""
        inside, shapes, widths = shape[0], dict[str, tuple[int, int, int]](), self.scales(shape)
        for k, width in enumerate(widths):
            below = widths[k + 1] if k + 1 < len(widths) else width
            shapes[f"{k}.skip"] = (self.skip, inside, 1)
            shapes[f"{k}.down"] = (width, inside, 3)
            shapes[f"{k}.deep"] = (width, width, 3)
            shapes[f"{k}.up"] = (width, self.skip + below, 3)
            shapes[f"{k}.mix"] = (width, width, 1)
            inside = width
        return {**shapes, "last": (shape[0], widths[0], 1)}

    def draw(self, shape: tuple[int, int, int], rng: torch.Generator, like: Tensor) -> dict[str, Tensor]:
        """Weights of one generator, by PyTorch's own scheme U(-1/sqrt(fan in), 1/sqrt(fan in)); norms start at 1 and 0.

        Args:
            shape: of the image (c, h, w).
            rng: on the CPU.
            like: gives device and dtype.
        """
        weights = dict[str, Tensor]()
        for name, (outside, inside, side) in self.convolutions(shape).items():
            bound = 1 / sqrt(inside * side * side)
            weights[f"{name}.weight"] = (2 * rand((outside, inside, side, side), rng, like) - 1) * bound
            if name == "last":
                weights[f"{name}.bias"] = like.new_zeros(outside)
            else:
                weights[f"{name}.scale"], weights[f"{name}.shift"] = like.new_ones(outside), like.new_zeros(outside)
        return weights

    def latent(self, shape: tuple[int, int, int], rng: torch.Generator, like: Tensor) -> Float[Tensor, "c h w"]:
        """A seed of the image's shape, uniform in [0, 0.1]."""
        return LATENT * rand(shape, rng, like)

    def generate(self, weights: Mapping[str, Tensor], latents: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
        """Images in (0, 1).

        Args:
            weights: as `draw` gives them, each with a further first axis of m generators.
            latents: one for each generator.
        """
        shape = (latents.shape[1], latents.shape[2], latents.shape[3])
        network = _Generators(weights)
        image = network.scale(latents, 0, len(self.scales(shape)))
        raw = convolved(image, weights["last.weight"]) + weights["last.bias"][:, :, None, None]
        return raw.sigmoid()


@dataclass(frozen=True)
class _Generators:
    weights: Mapping[str, Tensor]

    def scale(self, x: Tensor, k: int, scales: int) -> Tensor:
        """What scale k hands up, at the size of x."""
        below = self.layer(self.layer(x, f"{k}.down", 2), f"{k}.deep")
        if k + 1 < scales:
            below = self.scale(below, k + 1, scales)
        up = functional.interpolate(below, x.shape[2:], mode="nearest")
        joined = torch.cat([self.layer(x, f"{k}.skip"), up], 1)
        return self.layer(self.layer(joined, f"{k}.up"), f"{k}.mix")

    def layer(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weights = self.weights
        wide = convolved(x, weights[f"{name}.weight"], stride)
        normal = normalised(wide, weights[f"{name}.scale"], weights[f"{name}.shift"])
        return functional.leaky_relu(normal, SLOPE)


def convolved(
    x: Float[Tensor, "m i h w"], kernels: Float[Tensor, "m o i k k"], stride: int = 1
) -> Float[Tensor, "m o h2 w2"]:
    """Each image with its own kernels of odd side, padded with zeros: one grouped convolution."""
    m, outside, inside, side, _ = kernels.shape
    if side == 1 and stride == 1:
        return torch.bmm(kernels.view(m, outside, inside), x.flatten(2)).view(m, outside, *x.shape[2:])
    y = functional.conv2d(
        x.reshape(1, m * inside, *x.shape[2:]), kernels.flatten(0, 1), None, stride, side // 2, groups=m
    )
    return y.view(m, outside, *y.shape[2:])


def normalised(
    x: Float[Tensor, "m c h w"], scale: Float[Tensor, "m c"], shift: Float[Tensor, "m c"]
) -> Float[Tensor, "m c h w"]:
    """Each channel of each image to mean 0 and variance 1, then scaled and shifted by numbers of that image."""
    flat = x.reshape(1, -1, *x.shape[2:])
    return functional.batch_norm(flat, None, None, scale.flatten(), shift.flatten(), training=True).view(x.shape)
