"""What an input is: its shape, its range, its normalisation, and how a candidate becomes an input again."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.errors import BadInput, NotApplicable


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

    Example:
        >>> import fedspill, torch
        >>> spec = fedspill.ImageSpec((3, 32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
        >>> spec.encode(torch.ones(1, 3, 32, 32)).unique()
        tensor([2.])
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


@dataclass(frozen=True)
class TokenSpec:
    """Sentences of `length` tokens, whole numbers below `vocabulary`.

    The network takes the numbers themselves, because its embedding is a parameter that the client trains; what an
    attack reads behind the embedding is turned into tokens by passing tokens through the network's front.

    Example:
        >>> import fedspill
        >>> fedspill.TokenSpec(length=32, vocabulary=50257).length
        32
    """

    length: int
    vocabulary: int

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Shape of one encoded example."""
        return (self.length,)

    def encode(self, inputs: Tensor) -> Int[Tensor, "*n t"]:
        """Token numbers as the network takes them."""
        return inputs.long()

    def decode(self, z: Tensor) -> Int[Tensor, "*n t"]:
        """The nearest token numbers."""
        return self.project(z).long()

    def project(self, z: Tensor) -> Tensor:
        """The nearest whole numbers inside the vocabulary."""
        return z.round().clamp(0, self.vocabulary - 1) if z.is_floating_point() else z.clamp(0, self.vocabulary - 1)


@dataclass(frozen=True)
class NumericColumn:
    """One number per row, searched as (value - mean) / std.

    Attributes:
        name: as people call it.
        mean: of the column, in its own unit.
        std: of the column, above 0.
        low: the smallest value that a row may hold.
        high: the largest.
        step: values are whole multiples of it (1 for counts); None for real numbers.
    """

    name: str
    mean: float
    std: float
    low: float
    high: float
    step: float | None = None


@dataclass(frozen=True)
class CategoricalColumn:
    """One of several words per row, held as its position in `categories`, searched as one-hot."""

    name: str
    categories: tuple[str, ...]


Column = NumericColumn | CategoricalColumn


@dataclass(frozen=True)
class TableSpec:
    """Rows of mixed columns, (n, columns) floats; a categorical column holds the position of its category.

    Encoded rows hold, column by column, one scaled number or the one-hot form of a category.

    Example:
        >>> import fedspill
        >>> from fedspill.core.inputs import CategoricalColumn, NumericColumn
        >>> age = NumericColumn("age", mean=40.0, std=20.0, low=0.0, high=100.0)
        >>> spec = fedspill.TableSpec((age, CategoricalColumn("sex", ("f", "m"))))
        >>> spec.encoded_shape
        (3,)
    """

    columns: tuple[Column, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Encoded numbers per column."""
        return tuple(len(c.categories) if isinstance(c, CategoricalColumn) else 1 for c in self.columns)

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Shape of one encoded example."""
        return (sum(self.widths),)

    def encode(self, inputs: Float[Tensor, "*n columns"]) -> Float[Tensor, "*n features"]:
        """Rows to scaled numbers and one-hot categories."""
        return torch.cat([_encoded(c, inputs[..., i]) for i, c in enumerate(self.columns)], -1)

    def decode(self, z: Float[Tensor, "*n features"]) -> Float[Tensor, "*n columns"]:
        """The nearest valid rows: numbers inside their bounds and on their step, the likeliest category."""
        parts = z.split(self.widths, -1)
        return torch.stack([_decoded(c, p) for c, p in zip(self.columns, parts, strict=True)], -1)

    def project(self, z: Float[Tensor, "*n features"]) -> Float[Tensor, "*n features"]:
        """Rows inside the box of valid ones: numbers inside their bounds, categories between 0 and 1."""
        parts = z.split(self.widths, -1)
        return torch.cat([_boxed(c, p) for c, p in zip(self.columns, parts, strict=True)], -1)


Kind = type[ImageSpec] | type[TokenSpec] | type[TableSpec]
"""A kind of input, as attacks and metrics name what they accept."""


def _encoded(column: Column, values: Tensor) -> Tensor:
    if isinstance(column, NumericColumn):
        return ((values - column.mean) / column.std)[..., None]
    return torch.nn.functional.one_hot(values.long(), len(column.categories)).to(values)


def _decoded(column: Column, encoded: Tensor) -> Tensor:
    if isinstance(column, CategoricalColumn):
        return encoded.argmax(-1).to(encoded)
    # float32 holds neither large counts nor the rounding to a step exactly enough.
    value = encoded[..., 0].double() * column.std + column.mean
    # Adding 0 turns the -0 that rounding may leave into 0.
    value = value if column.step is None else (value / column.step).round() * column.step + 0.0
    return value.clamp(column.low, column.high).to(encoded)


def _boxed(column: Column, encoded: Tensor) -> Tensor:
    if isinstance(column, CategoricalColumn):
        return encoded.clamp(0, 1)
    ends = ((bound - column.mean) / column.std for bound in (column.low, column.high))
    return encoded.clamp(*ends)


KINDS: dict[type[Any], str] = {ImageSpec: "images", TokenSpec: "sentences", TableSpec: "table rows"}


def kind(spec: type[Any]) -> str:
    """What inputs of a spec are, in words."""
    return KINDS.get(spec, f"inputs of {spec.__name__}")


def image_spec(
    spec: InputSpec, taker: str = "the model", error: type[BadInput | NotApplicable] = NotApplicable
) -> ImageSpec:
    """`spec` itself, for what works on images only.

    Args:
        spec: of a model's input.
        taker: who takes such inputs, in words.
        error: NotApplicable where another method might fit, BadInput where the user asked for this one.

    Raises:
        NotApplicable: the inputs are no images (or BadInput, see `error`).
    """
    if not isinstance(spec, ImageSpec):
        raise error(f"pictures are needed, {taker} takes {type(spec).__name__}")
    return spec
