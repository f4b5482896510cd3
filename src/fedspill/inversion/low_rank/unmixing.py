"""Blind source separation of a layer's gradient, whose rows are mixtures of the layer's inputs.

Kariyappa et al., "Cocktail Party Attack", ICML 2023, arXiv 2209.05578: independent component analysis by gradient
descent on the negentropy of the sources, with a penalty on rows of the unmixing matrix that agree, and total variation.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.settings import Group
from fedspill.inversion.low_rank.factors import WIDE_GAP
from fedspill.inversion.priors.total_variation import total_variation

NOTHING = 1e-7
"""Of the largest singular value: a direction below this is rounding."""


@dataclass(frozen=True)
class Whitened:
    """Mixtures turned and scaled so that they are uncorrelated over the entries of an input, of variance 1.

    Attributes:
        mixtures: W (G - mean), (n, d).
        turn: W, (n, rows).
        mean: of each row of G, (rows).
    """

    mixtures: Float[Tensor, "n d"]
    turn: Float[Tensor, "n rows"]
    mean: Float[Tensor, " rows"]

    def sources(self, unmixing: Float[Tensor, "n n"]) -> Float[Tensor, "n d"]:
        """Inputs up to a factor each, the mean undone."""
        u = unit_rows(unmixing)
        return u @ self.mixtures + (u @ self.turn @ self.mean)[:, None]


def unit_rows(unmixing: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Rows of length 1."""
    return unmixing / unmixing.norm(dim=1, keepdim=True).clamp_min(1e-20)


def whitened(gradient: Float[Tensor, "rows d"], count: int | None) -> Whitened:
    """The strongest directions of a weight's gradient.

    Args:
        gradient: float64, of any multiple.
        count: n, or None: as many as stand out. Fewer are taken where there are fewer.

    Raises:
        NotApplicable: the gradient is 0, or n is not known and no number of directions stands out.
    """
    mean = gradient.mean(1)
    u, s, v = torch.linalg.svd(gradient - mean[:, None], full_matrices=False)
    held = int((s > NOTHING * s[0]).sum())
    if held == 0:
        raise NotApplicable(
            "the gradient of the first layer is 0, or the same for all pixels: nothing can be separated"
        )
    if count is None:
        ratio = s[:-1] / s[1:].clamp_min(NOTHING * float(s[0]))
        if float(ratio.max()) < WIDE_GAP:
            raise NotApplicable("the number of examples is not known, and the layer's gradient does not show it")
        count = int(ratio.argmax()) + 1
    count, size = min(count, held), math.sqrt(gradient.shape[1] - 1)
    return Whitened(v[:count] * size, size * u[:, :count].T / s[:count, None], mean)


@dataclass(frozen=True)
class Contrast(Group):
    """What the unmixing matrix maximises, less what it avoids.

    Attributes:
        negentropy: weight of E[log cosh s]^2, the paper's stand-in for it. Its published code leaves the term out.
        apart: weight of exp(temperature |cos|) - 1, averaged over pairs of rows of the unmixing matrix.
        temperature: of that penalty.
        tv: weight of the total variation of the sources.
    """

    negentropy: float = 1.0
    apart: float = 1.47
    temperature: float = 12.4
    tv: float = 3.1

    def loss(self, white: Whitened, unmixing: Float[Tensor, "n n"], shape: tuple[int, ...]) -> Float[Tensor, ""]:
        """The paper's loss.

        Args:
            white: the mixtures.
            unmixing: any rows; their lengths do not matter.
            shape: of one input, (c, h, w).
        """
        u = unit_rows(unmixing)
        # log cosh s without an overflow of cosh.
        s = (u @ white.mixtures).abs()
        log_cosh = s + torch.nn.functional.softplus(-2 * s) - math.log(2)
        near = torch.expm1(self.temperature * (u @ u.T).abs().fill_diagonal_(0)).mean()
        variation = total_variation(white.sources(unmixing).view(-1, *shape))
        return -self.negentropy * log_cosh.mean(1).square().mean() + self.apart * near + self.tv * variation
