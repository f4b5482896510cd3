"""Small chains of convolutions and invertible activations, as R-GAP takes them."""

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.local_training.losses import BinaryCrossEntropy
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.testing.worlds import draw_weights

SHAPE = (2, 8, 8)
ENOUGH, HARDLY, FEW = (6, 12), (6, 4), (6, 3)
"""Widths with which every layer's input is determined, and two with which that of the second convolution is not: though
there are as many constraints as values, and with fewer."""


def chain(widths: tuple[int, int] = ENOUGH, outputs: int = 1, *, bias: bool = False, seed: int = 0) -> Model:
    """Two convolutions with stride 2, LeakyReLU, and a linear layer; logistic loss of one output."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(2, widths[0], 4, 2, 2, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(widths[0], widths[1], 3, 2, 1, bias=False),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(9 * widths[1], outputs, bias=bias),
        )
    loss = BinaryCrossEntropy() if outputs == 1 else nn.functional.cross_entropy
    return Model.of(draw_weights(net, seed), ImageSpec(SHAPE), loss).to("cpu", torch.float64)


def picture(seed: int = 0) -> Tensor:
    """A picture between 0 and 1, (1, 2, 8, 8), float64."""
    return rand((1, *SHAPE), stream(seed, "test", "picture"), torch.zeros((), dtype=torch.float64))


def gradient_of(model: Model, z: Tensor, label: Tensor) -> dict[str, Tensor]:
    """The plain gradient."""
    params = {k: v.clone().requires_grad_() for k, v in model.params.items()}
    loss = model.loss(params, z, label)
    return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))


def opposite(model: Model, z: Tensor) -> Tensor:
    """The label that a network of one output does not predict."""
    with torch.no_grad():
        return (model.logits(model.params, z)[:, 0] <= 0).long()
