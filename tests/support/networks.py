"""Networks and private data of tests of gradient matching."""

import torch
from torch import nn
from torch.nn import functional

from fedspill.core.local_training.update import FedAvg, aggregate_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch
from fedspill.inversion.objective.distances import DISTANCES
from fedspill.inversion.objective.matching import Matching
from fedspill.zoo import models
from tests.support.worlds import CLASSES, SPEC, draw_weights

DOUBLE = torch.float64


class Viewing(nn.Module):
    """Flattens as old networks do, which needs channels first in memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), -1)


class Tied(nn.Module):
    """Uses one weight twice, once outside its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 192)
        self.head = nn.Linear(192, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x.flatten(1)).tanh()
        return self.head(functional.linear(x, self.layer.weight).tanh())


class Scaled(nn.Module):
    """Has a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 6)[:, None, None])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x


def plain(matching: Matching, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The objective as its definition says, differentiable through the update."""
    training, observed = matching.training, matching.observed.values
    guess = aggregate_update(matching.model, z, labels, training, matching.clients, create_graph=True)
    steps = training.local_steps(len(z) // matching.clients) if isinstance(training, FedAvg) else 1
    squared = matching.distance is DISTANCES["squared"] and isinstance(training, FedAvg)
    return matching.distance(guess.values, observed) * ((training.lr * steps) ** -2 if squared else 1)


def network(kind: str) -> Model:
    """One of every layer; weights are drawn anew."""
    with torch.random.fork_rng():
        middle = [nn.Conv2d(6, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True)]
        grouped = nn.Conv2d(12, 12, 3, 1, 1, groups=2)
        circular = nn.Conv2d(12, 40, 3, 1, 1, padding_mode="circular")
        own = Scaled() if kind == "scaled" else nn.Identity()
        convolutions = [nn.Conv2d(3, 6, 3, 1, 1), own, nn.BatchNorm2d(6), nn.Sigmoid(), *middle, grouped, circular]
        net = nn.Sequential(*convolutions, nn.Tanh(), Viewing(), nn.Linear(640, 20), nn.Tanh(), nn.Linear(20, CLASSES))
        net = Tied() if kind == "tied" else net
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean = torch.linspace(-0.5, 0.5, layer.num_features)
                layer.running_var = torch.linspace(0.5, 1.5, layer.num_features)
    return Model.of(draw_weights(net), SPEC).to("cpu", DOUBLE)


def smooth_net(dtype: torch.dtype = DOUBLE) -> Model:
    """Sigmoids all the way and positions kept apart, so that one example's gradient tells its picture."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Conv2d(3, 12, 3, 1, 1), nn.Sigmoid(), nn.Flatten(), nn.Linear(768, CLASSES))
    return Model.of(draw_weights(net), SPEC).to("cpu", dtype)


def of_zoo(name: str, **options: object) -> Model:
    """An untrained network of the zoo, on 8x8 pictures."""
    return models.build(name, input_shape=SPEC.shape, num_classes=CLASSES, options=options).to("cpu", DOUBLE)


def private_of(job: int, n: int = 2, dtype: torch.dtype = DOUBLE) -> Batch:
    """Pictures of one job, with labels unlike those of the others."""
    like = torch.zeros((), dtype=dtype)
    return Batch(rand((n, *SPEC.shape), stream(job, "test", "many"), like), (torch.arange(n) + 3 * job) % CLASSES)
