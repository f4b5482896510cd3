"""What the image metrics share: shape checks, clamping, bounded pieces of work, and "not computed"."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import BadInput, FedspillError
from fedspill.core.inputs import ImageSpec, Kind

IMAGES: frozenset[Kind] = frozenset({ImageSpec})
"""What the image metrics accept."""

PIECE = 2**18
"""Numbers per piece of work, 2 MB in float64; a network's activations are some hundred times that."""


class NotComputed(FedspillError):
    """A metric cannot be had for these inputs or on this machine; the message says why.

    `fedspill.scoring.score` turns it into a score without values; it never means 0.
    """


def paired(rebuilt: Tensor, private: Tensor) -> None:
    """Checks that rebuilt[i] and private[i] can be compared.

    Raises:
        BadInput: shapes differ.
    """
    if rebuilt.shape != private.shape:
        raise BadInput(
            f"reconstructions of shape {tuple(rebuilt.shape)} and private examples of shape"
            f" {tuple(private.shape)} were got; matched pairs of one shape are needed"
        )


def clamped(images: Tensor) -> Float[Tensor, "n c h w"]:
    """Images in [0, 1] and float64.

    Raises:
        BadInput: not four dimensions, or neither 1 (grey) nor 3 (colour) channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise BadInput(f"inputs of shape {tuple(images.shape)} were got; images (n, 1 or 3, height, width) are needed")
    return images.double().clamp(0, 1)


def pieces(n: int, size: int, room: int = PIECE) -> Iterator[slice]:
    """Slices over n examples of `size` numbers each, at most `room` numbers (or one example) in a slice."""
    step = max(1, room // max(1, size))
    yield from (slice(first, first + step) for first in range(0, n, step))


def in_pieces(
    function: Callable[[Tensor, Tensor], Tensor],
    rebuilt: Tensor,
    private: Tensor,
) -> Float[Tensor, " n"]:
    """`function` on clamped pairs, piece by piece; one float64 number per pair.

    Raises:
        BadInput: shapes differ, or these are no images.
    """
    paired(rebuilt, private)
    slices = pieces(len(private), private[0].numel() if len(private) else 1)
    with torch.no_grad():
        parts = [function(clamped(rebuilt[s]), clamped(private[s])) for s in slices]
    return torch.cat([*parts, private.new_zeros(0, dtype=torch.float64)])
