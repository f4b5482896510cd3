"""The network from features to examples: linear layers with ReLUs (arXiv 2210.10880), beside a linear map."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedspill.core.rng import seeded_globals
from fedspill.inversion.learned.linear import Linear


class Inverter(nn.Module):
    """Standardised features (m, f) to encoded examples (m, n, d): the linear map and what three layers add to it.

    The last layer begins at 0, so that training begins at the linear map.
    """

    def __init__(self, start: Linear, features: int, hidden: int, count: int) -> None:
        super().__init__()
        self.count, width = count, len(start.offset)
        self.register_buffer("weight", start.weight)
        self.register_buffer("offset", start.offset)
        last = nn.Linear(hidden, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.body = nn.Sequential(nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last)

    weight: Tensor
    offset: Tensor

    def forward(self, features: Float[Tensor, "m f"]) -> Float[Tensor, "m n d"]:
        """Examples of each row, in an order of the network's own."""
        made = Linear(self.weight, self.offset)(features) + self.body(features)
        return made.view(len(features), self.count, -1)


def fresh(start: Linear, features: int, hidden: int, count: int, rng: torch.Generator) -> Inverter:
    """One with weights drawn from `rng`, on the device of the linear map.

    Args:
        start: gives 1 x (n d) outputs.
        features: f.
        hidden: width of both hidden layers.
        count: n.
        rng: on the CPU.
    """
    with seeded_globals(rng):
        made = Inverter(Linear(start.weight.cpu(), start.offset.cpu()), features, hidden, count)
    return made.to(start.offset.device)
