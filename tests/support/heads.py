"""Heads with known features, and the gradient that plain PyTorch takes of them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fedspill.core.rng import randn, stream
from fedspill.core.types import LossFn

LIKE = torch.zeros((), dtype=torch.float64)


@dataclass(frozen=True)
class Seen:
    """The truth, and what a server sees of it."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor
    rows: Tensor

    @property
    def probabilities(self) -> Tensor:
        """Of the examples."""
        return (self.features @ self.weight.T + self.bias).softmax(1)


def seen(
    labels: list[int],
    *,
    classes: int = 10,
    width: int = 24,
    negative: bool = False,
    bias: bool = True,
    loss: LossFn = functional.cross_entropy,
    seed: int = 0,
) -> Seen:
    """Features behind a ReLU, or of any sign, and the gradient [dW | db] of their head, or dW alone."""
    rng = stream(seed, "test", "head")
    features = randn((len(labels), width), rng, LIKE)
    features = features if negative else features.relu()
    weight = (randn((classes, width), rng, LIKE) / width**0.5).requires_grad_()
    offset = (0.1 * randn((classes,), rng, LIKE) * bias).requires_grad_()
    y = torch.tensor(labels)
    by_weight, by_bias = torch.autograd.grad(loss(features @ weight.T + offset, y), (weight, offset))
    rows = torch.cat([by_weight, by_bias[:, None]], 1) if bias else by_weight
    return Seen(features, y, weight.detach(), offset.detach(), rows)


def nearest(found: Tensor, true: Tensor) -> Tensor:
    """Relative error of each true row's nearest found one."""
    return torch.cdist(true, found).min(1).values / true.norm(dim=1)
