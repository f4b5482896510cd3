"""Anybody's generator of images as a function of latents and weights, with what a search takes for granted of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.inputs import ImageSpec
from fedspill.core.module.calling import called
from fedspill.core.module.twins import copied
from fedspill.core.module.unwrapping import unwrapped
from fedspill.core.rng import randn, seeded_globals, stream
from fedspill.core.types import Params

PROBES = 4
"""Latents that a generator is tried on."""
OUTSIDE = 1e-3
"""Share of the range by which an image may leave it."""
APART = 1e-2
"""Share of the range by which an image may differ with the others of its batch, in float32 or better."""


@dataclass(frozen=True)
class Generator:
    """Latents (n, ...) to images (n, c, h, w) as people see them, one image for each latent.

    Attributes:
        module: a template in eval mode; its own weights are never read.
        params: as they were trained.
        buffers: likewise.
        latent_shape: of one latent, whose numbers are standard normal.
        image_shape: (c, h, w).
        origin: where it comes from, for a report.
    """

    module: nn.Module
    params: Params
    buffers: Params
    latent_shape: tuple[int, ...]
    image_shape: tuple[int, int, int]
    origin: str

    @classmethod
    def of(
        cls, module: nn.Module, latent_shape: tuple[int, ...], image_shape: tuple[int, int, int], origin: str
    ) -> "Generator":
        """With the weights that the module has now, in eval mode; the module is left as it is."""
        template = copied(unwrapped(module)).eval().requires_grad_(False)
        params = {k: v.detach().clone() for k, v in template.named_parameters()}
        buffers = {k: v.detach().clone() for k, v in template.named_buffers()}
        return cls(template, params, buffers, latent_shape, image_shape, origin)

    def to(self, like: Tensor) -> "Generator":
        """This generator on another device and in another floating dtype."""

        def moved(tensors: Params) -> dict[str, Tensor]:
            return {k: v.to(like if v.is_floating_point() else like.device) for k, v in tensors.items()}

        return Generator(
            self.module, moved(self.params), moved(self.buffers), self.latent_shape, self.image_shape, self.origin
        )

    def draw(self, count: int, rng: torch.Generator, like: Tensor) -> Float[Tensor, "n ..."]:
        """Latents at random."""
        return randn((count, *self.latent_shape), rng, like)

    def images(self, latents: Float[Tensor, "n ..."]) -> Float[Tensor, "n c h w"]:
        """What it makes of latents, differentiable."""
        return self._called(self.params, latents)

    def stacked_weights(self, count: int) -> list[Tensor]:
        """As many copies of every parameter, each with a first axis of `count`."""
        return [v.expand(count, *v.shape).clone() for v in self.params.values()]

    def images_by(self, weights: Sequence[Tensor], latents: Float[Tensor, "n ..."]) -> Float[Tensor, "n c h w"]:
        """Each image by weights of its own, differentiable in both.

        Args:
            weights: as `stacked_weights` orders them.
        """
        names = list(self.params)
        return torch.cat(
            [
                self._called(dict(zip(names, [w[i] for w in weights], strict=True)), latents[i : i + 1])
                for i in range(len(latents))
            ]
        )

    def _called(self, params: Mapping[str, Tensor], latents: Tensor) -> Tensor:
        return called(self.module, params, self.buffers, latents)[0]


def checked(generator: Generator, spec: ImageSpec, like: Tensor) -> Generator:
    """The generator on the device and in the dtype of `like`, tried on a few latents.

    Raises:
        BadInput: it takes no latents of its shape, or its images are of another shape or range, are not finite, depend
            on each other or on chance, or do not follow the latents.
    """
    moved = generator.to(like)
    what = f"generator {generator.origin}"
    if generator.image_shape != spec.shape:
        raise BadInput(f"{what} makes images of shape {generator.image_shape}; the network takes {spec.shape}")
    latents = moved.draw(PROBES, stream(0, "probe of a generator"), like).requires_grad_()
    images = _tried(moved, latents, what)
    _check_shape(images, spec, what)
    _check_range(images.detach(), spec, what)
    _check_alone(moved, latents.detach(), images.detach(), spec, what)
    _check_followed(images, latents, what)
    return moved


def _tried(generator: Generator, latents: Tensor, what: str) -> Any:
    try:
        with torch.enable_grad(), seeded_globals(stream(0, "probe")):
            return called(generator.module, generator.params, generator.buffers, latents)[0]
    except Exception as error:  # the module is the user's: anything may go wrong in it
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{what} takes no latents of shape {tuple(latents.shape)}: {reason[:200]}") from error


def _check_shape(images: Any, spec: ImageSpec, what: str) -> None:
    wanted = (PROBES, *spec.shape)
    got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if got != wanted:
        raise BadInput(f"{what} gives {got} for {PROBES} latents; images of shape {wanted} are needed")


def _check_range(images: Tensor, spec: ImageSpec, what: str) -> None:
    if not bool(images.isfinite().all()):
        raise BadInput(f"{what} gives images with NaN or infinite values; finite numbers are needed")
    low, high = spec.bounds
    least, most, leeway = float(images.min()), float(images.max()), OUTSIDE * (high - low)
    if least < low - leeway or most > high + leeway:
        raise BadInput(
            f"{what} gives images with values from {least:.3g} to {most:.3g}; they must lie between {low:g} and"
            f" {high:g}"
        )


def _check_alone(generator: Generator, latents: Tensor, images: Tensor, spec: ImageSpec, what: str) -> None:
    """Each image is the same alone, and a second time."""
    with torch.no_grad():
        with seeded_globals(stream(1, "probe")):
            again = generator.images(latents)
        alone = torch.cat([_tried(generator, latents[i : i + 1], what) for i in range(len(latents))])
    leeway = APART * (spec.bounds[1] - spec.bounds[0])
    if float((again - images).abs().max()) > leeway:
        raise BadInput(f"{what} draws random numbers: the same latents give other images; it must be a function")
    if alone.shape != images.shape or float((alone - images).abs().max()) > leeway:
        raise BadInput(f"{what} makes images that depend on the others of their batch; each must have its own latent")


def _check_followed(images: Tensor, latents: Tensor, what: str) -> None:
    if not images.requires_grad:
        raise BadInput(f"{what}: no gradient of its images reaches the latents, so nothing can be searched")
    anyway = 0 * latents.sum()  # so that latents that are not used have a gradient, of 0
    (slope,) = torch.autograd.grad(images.square().sum() + anyway, latents)
    if not bool(slope.isfinite().all()) or not bool(slope.any()):
        raise BadInput(f"{what}: its images do not follow the latents (their gradient is 0, or not finite)")
