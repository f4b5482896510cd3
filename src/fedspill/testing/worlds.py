"""Small models and batches that contracts and tests run on."""

import torch
from torch import nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch

SPEC = ImageSpec((3, 8, 8), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
CLASSES = 10
"""Of every model here."""


def draw_weights(module: nn.Module, seed: int = 0, scale: float = 0.3) -> nn.Module:
    """Weights from a named stream, so that no test touches the global generator."""
    rng = stream(seed, "test", "weights")
    with torch.no_grad():
        for p in module.parameters():
            p.copy_((rand(tuple(p.shape), rng, p) - 0.5) * 2 * scale)
    return module


def mlp(*, training: bool = False, dtype: torch.dtype = torch.float32) -> Model:
    """A fully connected network with a smooth activation."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Sigmoid(), nn.Linear(32, CLASSES))
    return Model.of(draw_weights(net), SPEC, training=training).to("cpu", dtype)


def relu_mlp(*, dtype: torch.dtype = torch.float32) -> Model:
    """A fully connected network with ReLUs."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, CLASSES)
        )
    return Model.of(draw_weights(net), SPEC).to("cpu", dtype)


def linear(classes: int = CLASSES, *, dtype: torch.dtype = torch.float32) -> Model:
    """Logistic regression."""
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    return Model.of(draw_weights(net, scale=1e-3), SPEC).to("cpu", dtype)


def conv_bn(*, training: bool = False, dtype: torch.dtype = torch.float32) -> Model:
    """A small convolutional network with BatchNorm."""
    with torch.random.fork_rng():
        net = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1),
            nn.BatchNorm2d(6),
            nn.Sigmoid(),
            nn.Conv2d(6, 8, 3, 2, 1),
            nn.Sigmoid(),
            nn.Flatten(),
            nn.Linear(32, CLASSES),
        )
    return Model.of(draw_weights(net), SPEC, training=training).to("cpu", dtype)


def batch(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random pictures with the labels 0, 1, ..."""
    like = torch.zeros((), dtype=dtype)
    return Batch(rand((n, *SPEC.shape), stream(seed, "test", "data"), like), torch.arange(n) % CLASSES)


def imprinted(*, dtype: torch.dtype = torch.float32) -> Model:
    """A fully connected network with ReLUs, of which somebody made 12 rows bins of one direction."""
    model = relu_mlp(dtype=dtype)
    weight, bias = model.params["1.weight"].clone(), model.params["1.bias"].clone()
    direction = (rand((192,), stream(0, "test", "direction"), weight) - 0.5) / 4
    weight[:12] = direction
    bias[:12] = torch.linspace(1.5, -1.5, 12).to(bias)
    behind = model.params["3.weight"].clone()
    behind[:, :12] = behind[:, :1].clone()
    return model.with_params({**model.params, "1.weight": weight, "1.bias": bias, "3.weight": behind})
