"""Views: the inputs behind the features of the place where they are read, and what stored data look like there."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.blocks import by_rows
from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.inversion.codebooks.codebook import Codebook, InputCodebook, NoCodebook
from fedspill.inversion.codebooks.tokens import TokenCodebook
from fedspill.inversion.identity.pixel_map import PixelMap, pictures, pixel_map
from fedspill.inversion.network.layers import layer_inputs
from fedspill.inversion.network.trace import probe_inputs


@runtime_checkable
class View(Protocol):
    """How one place shows the inputs."""

    @property
    def codebook(self) -> Codebook:
        """What stored data look like."""
        ...

    @property
    def whole(self) -> bool:
        """Nothing of the input is lost there, so that exact features are an exact input."""
        ...

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Inputs as people see them, from flat features in float64."""
        ...


@dataclass(frozen=True)
class InputView:
    """The network's own input."""

    spec: InputSpec
    whole: bool = True

    @property
    def codebook(self) -> Codebook:
        """Lattices of pictures and tables."""
        return InputCodebook(self.spec) if isinstance(self.spec, ImageSpec | TableSpec) else NoCodebook()

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Decoded."""
        return by_rows(self.spec.decode, features.view(-1, *self.spec.encoded_shape))


@dataclass(frozen=True)
class SentenceView:
    """The view behind an embedding."""

    codebook: TokenCodebook
    whole: bool = True

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """The nearest tokens."""
        return self.codebook.tokens(features)


@dataclass(frozen=True)
class PictureView:
    """The view deep in a network that hands the picture on (`identity.transparent`).

    Attributes:
        seen: which pixel each feature shows.
        spec: of the pictures.
        whole: strides and pools lose pixels.
    """

    seen: PixelMap
    spec: ImageSpec
    whole: bool = False

    @property
    def codebook(self) -> Codebook:
        """Windows of pools leave no lattice."""
        return NoCodebook()

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Interpolated between the pixels that are shown."""
        return pictures(self.seen, features, self.spec)


def view_at(model: Model, at: str, *, transparent: bool = False) -> View:
    """How the input of the layer `at` shows the network's input.

    Args:
        model: before a layer is planted.
        at: name of the layer; "" is the network.
        transparent: the layers before it hand pixels on (`identity.transparent`).

    Raises:
        NotApplicable: it does not show it.
    """
    spec = model.input
    if isinstance(spec, TokenSpec):
        return SentenceView(TokenCodebook(model, at))
    if at == "" or _shows_input(model, at):
        return InputView(spec)
    if transparent and isinstance(spec, ImageSpec):
        return PictureView(pixel_map(model, at), spec)
    raise NotApplicable(
        f"what enters {at!r} is not the network's input; for pictures, lanes='three' or 'all' make the layers before"
        " it hand the input on"
    )


def _shows_input(model: Model, at: str) -> bool:
    z = probe_inputs(model.input, 2, model.like)
    features = layer_inputs(model, at, z)
    return features.numel() == z.numel() and bool(torch.equal(features.flatten(), z.flatten()))
