"""What an input is: its shape, its range, its normalisation, and how a candidate becomes an input again."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class InputSpec(Protocol):
    """Maps inputs as people see them to what the network eats (`encode`) and back (`decode`)."""

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Shape of one encoded example."""
        ...

    def encode(self, inputs: Tensor) -> Tensor:
        """Inputs to z, the space in which searches run."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Z to inputs."""
        ...

    def project(self, z: Tensor) -> Tensor:
        """The nearest z whose decoded input is valid."""
        ...


@dataclass(frozen=True)
class ImageSpec:
    """Images of `shape` (c, h, w) with values inside `bounds`, normalised per channel by `mean` and `std`.

    A `mean` or `std` of one value holds for every channel.
    """

    shape: tuple[int, int, int]
    bounds: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Shape of one encoded example."""
        return self.shape

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return like.new_tensor(self.mean).view(-1, 1, 1), like.new_tensor(self.std).view(-1, 1, 1)

    def encode(self, inputs: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        """Pixels to normalised values."""
        mean, std = self._constants(inputs)
        return (inputs - mean) / std

    def decode(self, z: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        """Normalised values to pixels, clamped to `bounds`."""
        mean, std = self._constants(z)
        return (z * std + mean).clamp(*self.bounds)

    def project(self, z: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n c h w"]:
        """The box constraint in normalised space (Inverting Gradients, section 4)."""
        mean, std = self._constants(z)
        low, high = ((bound - mean) / std for bound in self.bounds)
        return torch.minimum(torch.maximum(z, low), high)
