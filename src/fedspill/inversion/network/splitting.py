"""A planted front whose first convolution gives every client columns of its own in the linear layer behind it.

Zhao et al.: "LOKI: Large-scale Data Reconstruction Attack against Federated Learning through Model Manipulation",
IEEE S&P 2024, arXiv:2303.12233. Every client receives other kernels, all receive the same linear layers. A kernel with
nothing but a centre tap hands a channel on, a kernel of zeros nothing, so that a client's gradient of the linear layer
is zero but for its own columns, also in a sum over clients.

`Blocks` is the published layout: what measures a client is also what is read. `Apart` is not in the paper: what
measures goes past the convolution, and each client has columns whose weights start at zero, to be read only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import ImageSpec

CENTRE = 1
"""Of a kernel of 3 x 3."""


class SplitFront(nn.Module):
    """Pictures through a convolution, bins of a linear layer and a second one, to pictures: (n, c, h, w) both.

    Args:
        shape: of a picture, (c, h, w).
        kernels: of the convolution.
        rows: of the first linear layer.
        ceiling: each row is cut off at 0 and at this.
        past: what the picture is multiplied by to go past the convolution, in front of what comes out of it; 0 leaves
            that out.
    """

    def __init__(
        self, shape: tuple[int, int, int], kernels: int, rows: int, ceiling: float = 1.0, past: float = 0.0
    ) -> None:
        super().__init__()
        channels, height, width = shape
        planes = kernels + channels * (past != 0)
        with torch.device("meta"):
            self.split = nn.Conv2d(channels, kernels, 3, padding=1)
            self.first = nn.Linear(planes * height * width, rows)
            self.second = nn.Linear(rows, channels * height * width)
        self.ceiling, self.past = ceiling, past

    def forward(self, x: Tensor) -> Tensor:
        """What the network behind gets."""
        shown = self.split(x)
        shown = torch.cat([self.past * x, shown], 1) if self.past else shown
        answers = functional.hardtanh(self.first(shown.flatten(1)), 0.0, self.ceiling)
        return self.second(answers).view_as(x)


@dataclass(frozen=True)
class Columns:
    """The columns of one client.

    Attributes:
        pixels: show the picture times the layout's `scaling`.
        ones: show `scaling` itself; None if nothing does.
    """

    pixels: slice
    ones: slice | None = None


class Layout(Protocol):
    """Which kernels and columns belong to whom."""

    @property
    def spec(self) -> ImageSpec:
        """Of the pictures."""
        ...

    @property
    def scaling(self) -> float:
        """The centre tap of a kernel; the weights behind are divided by it."""
        ...

    @property
    def kernels(self) -> int:
        """Of the convolution."""
        ...

    @property
    def past(self) -> float:
        """What the picture is multiplied by that goes past it, see `SplitFront`."""
        ...

    def columns(self, client: int) -> Columns:
        """Those of the client in this position."""
        ...

    def split(self, client: int, like: Tensor) -> Mapping[str, Tensor]:
        """Weight and bias of the convolution that this client receives."""
        ...

    def first(
        self, weight: Float[Tensor, "rows features"], bias: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"]]:
        """The linear layer that all receive, from rows that measure encoded pictures."""
        ...


@dataclass(frozen=True)
class Blocks:
    """Every client has a block of columns, which measure and are read; they show pixels between 0 and 1.

    The paper's clients feed pixels as they are. Where a network is fed normalised ones, the kernels undo that, as only
    pictures without negative numbers push a row that was hit out of the reach of all later ones.

    Attributes:
        spec: see `Layout`.
        count: of clients.
        scaling: see `Layout`; the paper's convolutional scaling factor.
    """

    spec: ImageSpec
    count: int
    scaling: float

    @property
    def kernels(self) -> int:
        """One for every channel of every client."""
        return self.count * self.spec.shape[0]

    @property
    def past(self) -> float:
        """Nothing does."""
        return 0.0

    def columns(self, client: int) -> Columns:
        """One after another."""
        size = _features(self.spec)
        return Columns(slice(client * size, (client + 1) * size))

    def split(self, client: int, like: Tensor) -> Mapping[str, Tensor]:
        """Centre taps that hand pixels on."""
        slope, offset = self._pixels(like)
        own = range(client * len(slope), (client + 1) * len(slope))
        return _taps(self.spec, self.kernels, own, slope * self.scaling, offset * self.scaling)

    def first(
        self, weight: Float[Tensor, "rows features"], bias: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"]]:
        """The same rows for every client; at most one block shows anything."""
        slope, offset = (self._wide(v) for v in self._pixels(weight.double()))
        rows = weight.double() / slope
        return (rows / self.scaling).to(weight).repeat(1, self.count), (bias.double() - rows @ offset).to(bias)

    def as_pixels(self, vector: Float[Tensor, " features"]) -> tuple[Float[Tensor, " features"], float]:
        """A measurement <w, z> of encoded pictures as <v, u> + b of pixels u between 0 and 1."""
        slope, offset = (self._wide(v) for v in self._pixels(vector))
        return vector / slope, -float((vector / slope) @ offset)

    def _pixels(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Slope and offset by channel from encoded to pixels between 0 and 1."""
        low, high = self.spec.bounds
        channels = self.spec.shape[0]
        mean, std = (like.new_tensor(v).expand(channels) for v in (self.spec.mean, self.spec.std))
        return std / (high - low), (mean - low) / (high - low)

    def _wide(self, by_channel: Tensor) -> Tensor:
        return by_channel[:, None].expand(-1, _features(self.spec) // len(by_channel)).flatten()


@dataclass(frozen=True)
class Apart:
    """The picture itself is measured; every client has columns that are only read, pixels and ones.

    Weights that start at zero hold what was added to them to the last bit, however many local steps there were, and a
    column of ones sums up a client's own derivatives, which the shared bias mixes with all others'. As nothing is lost
    in rounding, the scaling can be small, so that local steps leave the rows where they are; and no kernel that could
    be trained lies in front of what measures.

    Attributes:
        spec: see `Layout`.
        count: of clients.
        scaling: see `Layout`.
    """

    spec: ImageSpec
    count: int
    scaling: float

    @property
    def kernels(self) -> int:
        """For every client one for each channel and one for the ones."""
        return self.count * (self.spec.shape[0] + 1)

    @property
    def past(self) -> float:
        """As the kernels."""
        return self.scaling

    def columns(self, client: int) -> Columns:
        """Behind those that measure, one client after another."""
        size = _features(self.spec)
        ones = size // self.spec.shape[0]
        start = size + client * (size + ones)
        return Columns(slice(start, start + size), slice(start + size, start + size + ones))

    def split(self, client: int, like: Tensor) -> Mapping[str, Tensor]:
        """Centre taps that hand encoded pixels on, and one kernel of nothing but a bias."""
        channels = self.spec.shape[0]
        start = client * (channels + 1)
        slope, own = like.new_full((channels,), self.scaling), range(start, start + channels)
        values = _taps(self.spec, self.kernels, own, slope, like.new_zeros(channels))
        values["bias"][start + channels] = self.scaling
        return values

    def first(
        self, weight: Float[Tensor, "rows features"], bias: Float[Tensor, " rows"]
    ) -> tuple[Float[Tensor, "rows columns"], Float[Tensor, " rows"]]:
        """Zero but for the columns that measure."""
        size = _features(self.spec)
        whole = weight.new_zeros(len(weight), size + self.kernels * size // self.spec.shape[0])
        whole[:, :size] = weight / self.scaling
        return whole, bias


def _features(spec: ImageSpec) -> int:
    channels, height, width = spec.shape
    return channels * height * width


def _taps(spec: ImageSpec, kernels: int, own: range, slope: Tensor, offset: Tensor) -> dict[str, Tensor]:
    """Kernels of which some hand on a channel each, all others nothing."""
    channels, places = spec.shape[0], list(own)
    weight, bias = slope.new_zeros(kernels, channels, 3, 3), slope.new_zeros(kernels)
    weight[places, list(range(channels)), CENTRE, CENTRE] = slope
    bias[places] = offset
    return {"weight": weight, "bias": bias}
