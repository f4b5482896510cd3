"""What both sides of `matching` are given: a network, private images and the one update that both invert.

Networks are in eval mode, labels are granted, the update was computed once by fedspill's client and is handed to both
tools. Images are CIFAR-10 test images from number 9,000 on, which no setting was chosen on.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedspill.core.inputs import ImageSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.types import Batch, Update
from fedspill.zoo import data, models

FIRST = 9000
"""Test images below this number may have chosen settings."""
PHOTOGRAPH = 224
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """One network under one protocol.

    Attributes:
        network: of the zoo.
        count: images in the update.
        side: of the images in pixels; past 32 they are enlarged, so that no other data is needed.
        weights: as in `fedspill.zoo.models.build`.
        images: numbers of the test images of the quality runs, one image each.
    """

    network: str
    count: int = 1
    side: int = 32
    weights: str = "untrained"
    training: LocalTraining = FedSGD()
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    images: tuple[int, ...] = (9000, 9100, 9200)


LARGE: dict[str, Any] = {"stem": "imagenet", "normalise": "imagenet"}
NETWORKS: dict[str, Case] = {
    "convnet64": Case("convnet"),
    "resnet18": Case("resnet18", options={"stem": "cifar"}),
    "resnet20_4": Case("resnet20_4"),
    "resnet20": Case("resnet20"),
    "resnet18_224": Case("resnet18", side=PHOTOGRAPH, options=LARGE),
}
COST: dict[str, Case] = {
    **{
        f"{name}x{n}": Case(case.network, n, case.side, options=case.options)
        for name, case in NETWORKS.items()
        for n in (1, 8)
    },
    "fedavg5x1": Case("convnet", training=FedAvg(epochs=5, minibatch_size=1, lr=1e-2)),
}
"""Cases of `cost`: NETWORKxIMAGES; the last one is the ConvNet with five local steps (E = 5, B = 1)."""
QUALITY: dict[str, Case] = {
    "resnet18": NETWORKS["resnet18"],
    "resnet20_4": NETWORKS["resnet20_4"],
    # The first test images from 9,000, 9,100 and 9,200 on whose loss under these weights is above 0.1.
    "resnet20_trained": Case("resnet20", weights="trained", images=(9039, 9105, 9216)),
}
COST_OF = {"resnet18": "resnet18x1", "resnet20_4": "resnet20_4x1", "resnet20_trained": "resnet20x1"}
"""The case of `cost` whose seconds per iteration hold for a case of `curves`."""


@dataclass(frozen=True)
class World:
    """The network, the private images, and what left the client.

    Attributes:
        private: sorted by label, as the peer's own client would send them.
        loss: of the private images under the network; a matching attack has little to go by where it is 0.
    """

    model: Model
    private: Batch
    training: LocalTraining
    update: Update
    loss: float
    seed: int

    @property
    def spec(self) -> ImageSpec:
        """Of the network's input."""
        assert isinstance(self.model.input, ImageSpec)
        return self.model.input

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return self.model.like.device

    def knowledge(self) -> ServerKnowledge:
        """What both tools know: the network, the labels, and how the client trained."""
        private, training = self.private, self.training
        return ServerKnowledge(
            self.model, num_examples=len(private), labels=private.labels.to(self.device), local_training=training
        )


def world(case: Case, images: tuple[int, ...], seed: int, device: str) -> World:
    """The images of these numbers; `seed` draws untrained weights."""
    pool = data.load("cifar10", split="test", indices=images)
    batch = pool.batch[pool.batch.labels.argsort(stable=True)]
    inputs = batch.inputs if case.side == batch.inputs.shape[-1] else _enlarged(batch.inputs, case.side)
    model = models.build(
        case.network,
        input_shape=(3, case.side, case.side),
        num_classes=IMAGENET_CLASSES if case.side == PHOTOGRAPH else pool.num_classes,
        weights=case.weights,
        seed=seed,
        device=device,
        options=case.options,
        mean=pool.mean,
        std=pool.std,
    )
    return of(model, Batch(inputs, batch.labels), case.training, seed)


def of(model: Model, private: Batch, training: LocalTraining, seed: int) -> World:
    """The world of a model and private images."""
    here = private.to(model.like)
    with torch.no_grad():
        loss = float(model.loss(model.params, model.input.encode(here.inputs), here.labels))
    return World(model, private, training, local_update(model, here, training), loss, seed)


def _enlarged(images: Tensor, side: int) -> Tensor:
    return nn.functional.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
