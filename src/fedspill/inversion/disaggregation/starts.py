"""First guesses of the mixing: probabilities that the head could give, and what the equations then say."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import randn
from fedspill.inversion.disaggregation.system import System

SPREAD = (0.003, 2.0)
"""Standard deviation of the noise on the logits, from the first start to the last."""


def starts(
    known: System, bias: Float[Tensor, " classes"], number: int, rng: torch.Generator
) -> Float[Tensor, "number m m"]:
    """Mixings by least squares from probabilities about softmax of the bias, each example's own.

    Args:
        known: the equations.
        bias: the head's.
        number: of starts.
        rng: what is drawn.
    """
    m, classes = known.target.shape
    spread = torch.logspace(0, 1, number, dtype=torch.float64, device=bias.device) if number > 1 else bias.new_ones(1)
    low, high = SPREAD
    spread = low * (high / low) ** torch.log10(spread)
    noise = randn((number, m, classes), rng, bias)
    errors = known.errors((bias + spread[:, None, None] * noise).softmax(-1))
    return torch.linalg.pinv(errors.mT) @ known.seen
