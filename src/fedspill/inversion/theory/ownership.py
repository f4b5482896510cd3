"""How many examples of a batch own a row of a linear layer behind which a ReLU stands: the IR leakage rate, and ExAN.

Dabholkar et al. 2025 (Maui, arXiv 2509.11451), section 5.2.1: with the truth, by which rows each example fires.

When a batch can be rebuilt exactly from a ReLU network's gradient (Pan et al., USENIX Security 2022, arXiv
2010.13356): an exclusively activated neuron (ExAN) is a ReLU that one example of the batch alone fires. Each example
needs two at the last ReLU layer, so that ratios show it, and one at every other. For an evaluation that holds the
examples; no attack can compute this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.roles import Prediction


def owned(fired: Bool[Tensor, "n units"]) -> Int[Tensor, " n"]:
    """How many units each example fires alone."""
    return (fired & (fired.sum(0) == 1)).sum(1)


def exclusive(fired: Sequence[Bool[Tensor, "n _"]], least: int = 2) -> Bool[Tensor, " n"]:
    """Examples that own `least` units at the last ReLU layer and one at every other.

    Args:
        fired: which example fires which unit, for each ReLU layer from the first on.
        least: 2 in the paper.
    """
    counts = torch.stack([owned(f) for f in fired])
    needed = counts.new_tensor([1] * (len(fired) - 1) + [least])
    return (counts >= needed[:, None]).all(0)


def owners(fires: Bool[Tensor, "n h"]) -> Bool[Tensor, " n"]:
    """Examples that fire some row alone."""
    return (fires & (fires.sum(0) == 1)).any(1)


def recoverable(fires: Bool[Tensor, "n h"]) -> Bool[Tensor, " n"]:
    """Examples that fire some row alone once those that were found before are taken away."""
    recovered = torch.zeros(len(fires), dtype=torch.bool, device=fires.device)
    while bool((fresh := owners(fires & ~recovered[:, None])).any()):
        recovered |= fresh
    return recovered


def expected_rows(fires: Bool[Tensor, "n h"], *, peel: bool) -> Prediction:
    """What a readout must find: the rows that each example fires, and which examples own one.

    Args:
        fires: which row has a non-zero gradient for which example.
        peel: the readout takes away examples that it has found.
    """
    places = tuple(tuple(f"row {j}" for j in f.nonzero()[:, 0].tolist()) for f in fires)
    return Prediction(places, recoverable(fires) if peel else owners(fires))


def leakage_rates(outputs: Float[Tensor, "n h"], size: int) -> Float[Tensor, " batches"]:
    """The IR leakage rate of each of the consecutive batches of `size` examples; what is left over is not counted.

    Args:
        outputs: of the layer, before the ReLU.
        size: of a batch, at most n.
    """
    fires = outputs > 0
    count = len(fires) // size
    groups = fires[: count * size].view(count, size, -1)
    alone = groups & (groups.sum(1, keepdim=True) == 1)
    return alone.any(2).double().mean(1)


def expected_leakage(
    u: Float[Tensor, "n h"], size: int, softplus: Float[Tensor, "n h"] | None = None
) -> Float[Tensor, " n"]:
    """The probability that each example owns a row in its batch, where rows fire independently; differentiable.

    Example i fires row j with a_ij = sigmoid(u_ij) and owns it with a_ij prod_k (1 - a_kj), k over the others of the
    batch, which is exp(u_ij - sum_k softplus(u_kj)), k over all.

    Args:
        u: log odds of firing; consecutive examples make a batch.
        size: of a batch; it divides n. Above n the others are drawn from the n examples, with repetition.
        softplus: of u, if it is at hand.
    """
    if size > len(u):
        fires = u.sigmoid()
        owning = fires * (1 - fires.mean(0)).clamp_min(1e-12) ** (size - 1)
    else:
        shape = (-1, size, u.shape[1])
        quiet = (functional.softplus(u) if softplus is None else softplus).view(shape).sum(1, keepdim=True)
        owning = (u.view(shape) - quiet).exp().view(u.shape)
    return 1 - torch.log1p(-owning.clamp_max(1 - 1e-6)).sum(1).exp()
