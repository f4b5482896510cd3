"""What a search for images varies: the weights of a generator for each image, or the pixels themselves."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.inputs import ImageSpec
from fedspill.inversion.priors.deep_image_prior import UNet


@runtime_checkable
class Candidates(Protocol):
    """Images of one search, each with its own variables."""

    @property
    def variables(self) -> list[Tensor]:
        """What an optimiser varies, in place."""
        ...

    @property
    def tensors(self) -> list[Tensor]:
        """All that must be kept to go on: the variables and what else changes."""
        ...

    def images(self, noise: Tensor | None) -> Float[Tensor, "m c h w"]:
        """The images as people see them, differentiable; `noise` disturbs a seed, where there is one."""
        ...

    def kick(self, noise: Tensor) -> None:
        """Moves a seed for good, where there is one."""
        ...

    def project(self) -> None:
        """Moves the variables back into their bounds, in place."""
        ...


@dataclass
class Generated:
    """One generator for each image; all begin with the same weights and share their seed.

    Attributes:
        names: of the weights, in the order of `weights`.
        weights: each with a first axis of m.
    """

    unet: UNet
    spec: ImageSpec
    names: tuple[str, ...]
    weights: list[Tensor]
    seed: Float[Tensor, "c h w"]

    @classmethod
    def drawn(cls, unet: UNet, spec: ImageSpec, count: int, rng: torch.Generator, like: Tensor) -> "Generated":
        """Fresh generators; what is drawn does not depend on `count`."""
        one = unet.draw(spec.shape, rng, like)
        weights = [w.expand(count, *w.shape).clone().requires_grad_() for w in one.values()]
        return cls(unet, spec, tuple(one), weights, unet.latent(spec.shape, rng, like))

    @property
    def variables(self) -> list[Tensor]:
        """The weights."""
        return self.weights

    @property
    def tensors(self) -> list[Tensor]:
        """Weights and seed."""
        return [*self.weights, self.seed]

    def images(self, noise: Tensor | None) -> Float[Tensor, "m c h w"]:
        """What the generators make of the seed."""
        seed = self.seed if noise is None else self.seed + noise
        low, high = self.spec.bounds
        latents = seed.expand(len(self.weights[0]), *seed.shape)
        made = self.unet.generate(dict(zip(self.names, self.weights, strict=True)), latents)
        return low + (high - low) * made

    def kick(self, noise: Tensor) -> None:
        """Adds to the seed."""
        self.seed += noise

    def project(self) -> None:
        """Weights have no bounds."""


@dataclass
class Pixels:
    """The pixels themselves, inside the bounds of images; there is no seed."""

    spec: ImageSpec
    pixels: Float[Tensor, "m c h w"]

    @classmethod
    def at(cls, spec: ImageSpec, images: Tensor | None, count: int, like: Tensor) -> "Pixels":
        """Pixels that start at these images, or at `count` grey ones."""
        start = like.new_full((count, *spec.shape), sum(spec.bounds) / 2) if images is None else images.to(like)
        return cls(spec, start.clamp(*spec.bounds).clone().requires_grad_())

    @property
    def variables(self) -> list[Tensor]:
        """The pixels."""
        return [self.pixels]

    @property
    def tensors(self) -> list[Tensor]:
        """The pixels."""
        return [self.pixels]

    def images(self, noise: Tensor | None) -> Float[Tensor, "m c h w"]:
        """The pixels as they are."""
        return self.pixels

    def kick(self, noise: Tensor) -> None:
        """There is no seed."""

    def project(self) -> None:
        """Into the bounds of images."""
        with torch.no_grad():
            self.pixels.clamp_(*self.spec.bounds)
