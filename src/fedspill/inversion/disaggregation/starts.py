"""First guesses of the mixing: probabilities that the head could give, and what the equations then say."""

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.rng import rand, randn
from fedspill.inversion.disaggregation.system import System

SPREAD = (0.003, 2.0)
"""Standard deviation of the noise on the logits, from the first start to the last."""
SURE, WILD = 10.0, 2.0
"""What is added at most to the logit of each example's own class, and the noise on all, where a network may be sure."""


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
    low, high = SPREAD
    powers = torch.linspace(0, 1, number, dtype=bias.dtype, device=bias.device) if number > 1 else bias.new_ones(1)
    spread = (low * (high / low) ** powers)[:, None, None]
    return _behind(known, bias + spread * randn((number, *known.target.shape), rng, bias))


def sure_starts(
    known: System, bias: Float[Tensor, " classes"], number: int, rng: torch.Generator
) -> Float[Tensor, "number m m"]:
    """Those of a trained network, which is sure of some examples, and of others not."""
    m = len(known.target)
    sure = SURE * rand((number, m, 1), rng, bias)
    own = known.target.argmax(1)[None, :, None].expand(number, -1, 1)
    logits = bias + WILD * randn((number, *known.target.shape), rng, bias)
    return _behind(known, logits.scatter_add(2, own, sure))


def _behind(known: System, logits: Float[Tensor, "s m classes"]) -> Float[Tensor, "s m m"]:
    """Mixings that come nearest to the gradient with such logits."""
    return torch.linalg.pinv(known.errors(logits.softmax(-1)).mT) @ known.seen
