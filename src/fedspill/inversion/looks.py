"""From features of the place where they are read back to inputs, and what stored data look like there."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import ImageSpec, InputSpec, TableSpec, TokenSpec
from fedspill.core.model import Model
from fedspill.inversion.chain import probe_inputs
from fedspill.inversion.pieces import by_rows
from fedspill.inversion.singles import Book, InputBook, NoBook
from fedspill.inversion.taps import layer_inputs
from fedspill.inversion.token_book import TokenBook


@runtime_checkable
class Look(Protocol):
    """How one place shows the inputs."""

    @property
    def book(self) -> Book:
        """What stored data look like."""
        ...

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Inputs as people see them, from flat features in float64."""
        ...


@dataclass(frozen=True)
class InputLook:
    """The network's own input."""

    spec: InputSpec

    @property
    def book(self) -> Book:
        """Lattices of pictures and tables."""
        return InputBook(self.spec) if isinstance(self.spec, ImageSpec | TableSpec) else NoBook()

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """Decoded."""
        return by_rows(self.spec.decode, features.view(-1, *self.spec.encoded_shape))


@dataclass(frozen=True)
class SentenceLook:
    """Behind an embedding."""

    book: TokenBook

    def inputs(self, features: Float[Tensor, "m f"]) -> Tensor:
        """The nearest tokens."""
        return self.book.tokens(features)


def look_at(model: Model, at: str) -> Look:
    """How the input of the layer `at` shows the network's input.

    Raises:
        NotApplicable: it does not show it.
    """
    spec = model.input
    if isinstance(spec, TokenSpec):
        return SentenceLook(TokenBook(model, at))
    if at == "" or _shows_input(model, at):
        return InputLook(spec)
    raise NotApplicable(f"what enters {at!r} is not the network's input, and no way back from it is known")


def _shows_input(model: Model, at: str) -> bool:
    z = probe_inputs(model.input, 2, model.like)
    features = layer_inputs(model, at, z)
    return features.numel() == z.numel() and bool(torch.equal(features.flatten(), z.flatten()))
