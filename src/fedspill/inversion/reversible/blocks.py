"""A classifier of reversible blocks: nothing of the picture is lost on its way to the classification layer.

Blocks of two streams, each changed by what the other holds, as in Gomez et al., "The Reversible Residual Network",
NeurIPS 2017, arXiv 1707.04585; pixels of a square become channels, as in Jacobsen et al., "i-RevNet", ICLR 2018,
arXiv 1802.07088.
"""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.rng import randn
from fedspill.core.types import Params

HEAD = "head"


class Branch(nn.Module):
    """Two convolutions of 3 x 3 with a ReLU between: what one stream adds to the other."""

    def __init__(self, inside: int, hidden: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, outside, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inside, h, w) to (n, outside, h, w)."""
        return self.second(functional.relu(self.first(x)))


class ReversibleBlock(nn.Module):
    """a + f(b), then b + g(a) of the new a: undone by the same two branches."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.sizes = (channels // 2, channels - channels // 2)
        self.f = Branch(self.sizes[1], hidden, self.sizes[0])
        self.g = Branch(self.sizes[0], hidden, self.sizes[1])

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        a, b = x.split(self.sizes, 1)
        a = a + self.f(b)
        return torch.cat([a, b + self.g(a)], 1)

    def back(self, y: Tensor) -> Tensor:
        """The input of this output."""
        a, b = y.split(self.sizes, 1)
        b = b - self.g(a)
        return torch.cat([a - self.f(b), b], 1)


class ReversibleNetwork(nn.Module):
    """Pixels to channels, reversible blocks, and a linear classification layer on all that comes out of them.

    Args:
        shape: of a picture, (c, h, w).
        classes: of the classification layer.
        blocks: reversible ones.
        hidden: channels inside a branch.

    Raises:
        NotApplicable: the picture has one channel and odd sides, of which no two streams can be made.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.fold = folds(shape)
        channels = shape[0] * self.fold**2
        if channels < 2:
            raise NotApplicable(
                f"a picture of shape {shape} has one channel and an odd side: no two streams can be made of it"
            )
        self.shape = (channels, shape[1] // self.fold, shape[2] // self.fold)
        with torch.device("meta"):
            self.blocks = nn.Sequential(*(ReversibleBlock(channels, hidden) for _ in range(blocks)))
            self.head = nn.Linear(prod(shape), classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of pictures (n, c, h, w)."""
        return self.head(self.blocks(functional.pixel_unshuffle(x, self.fold)).flatten(1))

    def pictures(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n c h w"]:
        """The pictures that the classification layer sees these features of."""
        y = features.view(-1, *self.shape)
        for block in reversed(self.blocks):
            assert isinstance(block, ReversibleBlock), "nothing else is among them"
            y = block.back(y)
        return functional.pixel_shuffle(y, self.fold)


def folds(shape: tuple[int, int, int]) -> int:
    """By how much the sides of a picture are folded into channels: 4, 2, or 1 where they cannot be."""
    return next(side for side in (4, 2, 1) if shape[1] % side == 0 and shape[2] % side == 0)


def drawn(network: ReversibleNetwork, gain: float, rng: torch.Generator, like: Tensor) -> Params:
    """Random parameters: the usual ones of a network before training, biases 0.

    Args:
        network: whose names and shapes they take.
        gain: of the second convolution of every branch, below 1, so that many blocks do not blow up what they carry.
        rng: on the CPU.
        like: their device and dtype.
    """
    values = dict[str, Tensor]()
    for name, value in network.named_parameters():
        if value.ndim == 1:
            values[name] = like.new_zeros(value.shape)
            continue
        size = {"first": 2**0.5, "second": gain}.get(name.split(".")[-2], 1.0)
        values[name] = randn(tuple(value.shape), rng, like) * size / value[0].numel() ** 0.5
    return values
