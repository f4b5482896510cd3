"""Codebooks of stored data, which tell without the truth whether a bin holds one example.

The weighted mean of several examples lies inside the range of inputs and, if the weights have one sign, inside the
bin. What it does not do is look like stored data: pictures hold whole multiples of 1/255, rows hold categories and
whole numbers, sentences hold tokens.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fedspill.core.blocks import by_rows
from fedspill.core.inputs import ImageSpec, TableSpec
from fedspill.inversion.codebooks.lattice import is_coarse, lattice_residual, nearest
from fedspill.inversion.codebooks.scale import lattice_scale

ALONE = 0.12
"""Lattice residual below which features are stored data; mixtures have 0.25 in the mean."""
OUTSIDE = 1e-2
"""Share of its range by which a valid input may leave it, by rounding."""
SOME = 8
"""Candidates of which one must be stored data, before the others are held to it."""


@runtime_checkable
class Codebook(Protocol):
    """What stored data look like at the place where features are read."""

    @property
    def open(self) -> bool:
        """Some numbers are not rounded by `nearest`, or more finely than they are read."""
        ...

    def residual(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """0 for stored data, 0.25 in the mean for mixtures, NaN where it cannot be told."""
        ...

    def nearest(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """The nearest features of stored data."""
        ...

    def out_of_range(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """How far features leave the range of valid ones, as a share of its size."""
        ...

    def scale(self, direction: Float[Tensor, " f"], low: float, high: float) -> float | None:
        """The factor between `low` and `high` that makes stored data of a multiple of them, if there is one."""
        ...


@dataclass(frozen=True)
class InputCodebook:
    """The codebook of the network's own encoded input: pictures and table rows.

    Attributes:
        spec: of the input.
    """

    spec: ImageSpec | TableSpec

    @property
    def open(self) -> bool:
        """Tables may have real numbers, or large counts."""
        return isinstance(self.spec, TableSpec) and not all(is_coarse(c) for c in self.spec.columns)

    def residual(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """Distance to the lattice of stored values."""
        return lattice_residual(self.spec, self._shaped(features))

    def nearest(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """The nearest stored values."""
        return nearest(self.spec, self._shaped(features)).flatten(1)

    def out_of_range(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """Distance to the valid range of each example's worst number, as a fraction of its largest valid value."""
        return by_rows(self._excess, features)

    def scale(self, direction: Float[Tensor, " f"], low: float, high: float) -> float | None:
        """The factor that brings pixels to whole levels, or a category to 1; None if there is none."""
        fit = lattice_scale(self.spec, direction, low, high)
        return fit[0] if fit is not None and fit[1] < ALONE else None

    def _excess(self, features: Tensor) -> Tensor:
        valid = self.spec.project(self._shaped(features)).flatten(1)
        return (features - valid).abs().amax(1) / valid.abs().amax(1).clamp_min(1e-12)

    def _shaped(self, features: Tensor) -> Tensor:
        return features.view(-1, *self.spec.encoded_shape)


@dataclass(frozen=True)
class NoCodebook:
    """The codebook of features that nothing is known of."""

    @property
    def open(self) -> bool:
        """Nothing is rounded."""
        return True

    def residual(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """It cannot be told."""
        return torch.full_like(features[:, 0], torch.nan)

    def nearest(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m f"]:
        """The features themselves, as nothing is stored."""
        return features

    def out_of_range(self, features: Float[Tensor, "m f"]) -> Float[Tensor, " m"]:
        """Everything is valid."""
        return torch.zeros_like(features[:, 0])

    def scale(self, direction: Float[Tensor, " f"], low: float, high: float) -> float | None:
        """It cannot be told."""
        return None


@dataclass(frozen=True)
class Recognition:
    """What is held of candidates.

    Attributes:
        alone: stored data: one example.
        mixed: not stored data, though others among the candidates are.
        valid: inside the range of inputs.
    """

    alone: Bool[Tensor, " m"]
    mixed: Bool[Tensor, " m"]
    valid: Bool[Tensor, " m"]


def recognise(codebook: Codebook, features: Float[Tensor, "m f"]) -> Recognition:
    """Judges candidates by their looks.

    Pictures that were resized hold no whole multiples of 1/255; so a candidate is a mixture only if enough others
    look like stored data.
    """
    residual, valid = codebook.residual(features), codebook.out_of_range(features) < OUTSIDE
    alone = (residual < ALONE) & valid
    stored = int(alone.sum()) * SOME >= len(features) and bool(alone.any())
    return Recognition(alone, ~valid | ((residual >= ALONE) & stored), valid)
