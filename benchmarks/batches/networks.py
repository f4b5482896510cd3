"""Networks that batches are read from, and the training of the fully connected ones."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.model import Model
from fedspill.core.tensor_files import write_tensors
from fedspill.core.types import Batch
from fedspill.zoo import data, models

FIRST = 9000
"""Number of the first test image that is attacked; networks are trained on the training images."""
LR, BATCH = 0.01, 64
RUNS = Path("runs") / "batches"
HEADS = {
    "ConvNet": ("convnet", {}, "untrained"),
    "ResNet-18": ("resnet18", {}, "untrained"),
    "ResNet20-4": ("resnet20_4", {}, "untrained"),
    "ResNet-20, trained": ("resnet20", {}, "trained"),
    "ResNet-32, trained": ("resnet32", {}, "trained"),
    "ResNet-44, trained": ("resnet44", {}, "trained"),
    "ResNet-56, trained": ("resnet56", {}, "trained"),
}
OWN = ("VGG-11 with two hidden layers", "ViT, 6 blocks of width 192")


@cache
def images(split: str = "test") -> data.DataPool:
    """CIFAR-10 out of the folder that FEDSPILL_DATA names."""
    return data.load("cifar10", split=split)


def batches(count: int, size: int, start: int = 0) -> Iterator[Batch]:
    """Consecutive batches of test images, with their own labels."""
    batch = images().batch
    for number in range(start, start + count):
        first = FIRST + number * size % (1000 - size)
        yield batch[slice(first, first + size)]


def mlp(seed: int, epochs: int = 0, classes: int = 10) -> Model:
    """A network 3072-256-128-classes; trained ones are kept in `runs/batches`."""
    pool = images()
    model = models.build(
        "mlp",
        input_shape=pool.input_shape,
        num_classes=classes,
        seed=seed,
        mean=pool.mean,
        std=pool.std,
        options={"hidden": (256, 128)},
    )
    if not epochs:
        return model
    path = RUNS / f"mlp-{seed}-{epochs}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, _trained(model, epochs, seed))
    return model.with_params(load_file(path))


def _trained(model: Model, epochs: int, seed: int) -> dict[str, Tensor]:
    """SGD on the training images."""
    module, rng = model.own_module(), torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.requires_grad_()
    batch = images("train").batch
    z, optimiser = model.input.encode(batch.inputs), torch.optim.SGD(module.parameters(), LR)
    for _ in range(epochs):
        for chosen in torch.randperm(len(z), generator=rng).split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(module(z[chosen]), batch.labels[chosen]).backward()
            optimiser.step()
    return {k: v.detach().clone() for k, v in module.named_parameters()}


def accuracy(model: Model) -> float:
    """On the thousand test images."""
    batch = images().batch[slice(FIRST, FIRST + 1000)]
    logits = model.logits(model.params, model.input.encode(batch.inputs))
    return float((logits.argmax(1) == batch.labels).float().mean())


def head_network(name: str, seed: int) -> Model:
    """A network whose features at the head are read."""
    pool = images()
    if name in OWN:
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # noqa: TID251
            module = _vgg() if name.startswith("VGG") else ViT()
        spec = models.build("mlp", input_shape=pool.input_shape, num_classes=10, mean=pool.mean, std=pool.std).input
        return Model.of(module.eval(), spec)
    network, options, weights = HEADS[name]
    return models.build(
        network,
        input_shape=pool.input_shape,
        num_classes=10,
        seed=seed,
        weights=weights,
        mean=pool.mean,
        std=pool.std,
        options=options,
    )


def _vgg() -> nn.Module:
    layers, channels = list[nn.Module](), 3
    for width in (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    hidden = [nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers, *hidden)


class ViT(nn.Module):
    """Patches of 4 x 4, blocks with LayerNorm first and GELU, the mean of all tokens to the head."""

    def __init__(self, width: int = 192, blocks: int = 6) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.positions = nn.Parameter(0.02 * torch.randn(1, 64, width))
        layer = nn.TransformerEncoderLayer(
            width, 3, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, 32, 32) to (n, 10)."""
        tokens = self.patches(x).flatten(2).mT + self.positions
        return self.head(self.norm(self.blocks(tokens)).mean(1))
