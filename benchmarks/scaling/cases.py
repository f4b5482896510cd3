"""The lines of `scaling`: one quantity grows, everything else stays."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from fedspill.core.local_training.update import FedAvg, FedSGD, LocalTraining, local_update
from fedspill.core.rng import rand, randn, stream
from fedspill.core.types import Batch
from fedspill.inversion.objective import unrolled
from fedspill.inversion.objective.distances import cosine_distance
from fedspill.inversion.objective.matching import Matching
from fedspill.zoo import models

Graph = Literal["chosen", "kept", "recomputed"]
LOCAL_LR = 1e-4
CLASSES = 10


@dataclass(frozen=True)
class Point:
    """One measurement. Images and weights are random: the price of an iteration does not depend on them.

    Attributes:
        network: of the zoo.
        count: images.
        side: of the images in pixels.
        steps: local steps on all images; 0 is FedSGD.
        graph: of the local steps; "chosen" leaves it to fedspill.
    """

    network: str
    count: int = 1
    side: int = 32
    steps: int = 0
    graph: Graph = "chosen"
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    def matching(self, device: str) -> tuple[Matching, torch.Tensor, torch.Tensor]:
        """The objective as `inverting_gradients` makes it, a candidate, and labels."""
        if self.graph != "chosen":
            unrolled.GRAPHS = 0 if self.graph == "recomputed" else 1 << 60
        shape = (3, self.side, self.side)
        made = {"input_shape": shape, "num_classes": CLASSES, "device": device, "options": self.options}
        model = models.build(self.network, **made)
        rng, labels = stream(0, "scaling"), torch.arange(self.count, device=device) % CLASSES
        private = Batch(rand((self.count, *shape), rng, model.like), labels)
        training: LocalTraining = FedAvg(epochs=self.steps, lr=LOCAL_LR) if self.steps else FedSGD()
        observed = local_update(model, private, training)
        z = randn((self.count, *shape), rng, model.like).requires_grad_()
        return Matching(model, observed, training, 1, cosine_distance), z, labels


@dataclass(frozen=True)
class Line:
    """Points along one quantity.

    Attributes:
        title: what grows, of what.
        group: lines of one group share a panel of the plot.
        points: by the quantity.
    """

    title: str
    group: str
    points: dict[int, Point]


def _convnet(width: int = 16, steps: int = 0, graph: Graph = "chosen") -> Point:
    return Point("convnet", steps=steps, graph=graph, options={"width": width})


STEPS = (1, 5, 20, 100)
LINES: dict[str, Line] = {
    "side": Line("ResNet-20, side in pixels", "image side", {s: Point("resnet20", side=s) for s in (32, 64, 128, 224)}),
    "batch": Line("ResNet-20, images", "images", {n: Point("resnet20", n) for n in (1, 2, 4, 8, 16)}),
    "batch18": Line("ResNet-18, images", "images", {n: Point("resnet18", n) for n in (1, 2, 4, 8, 16)}),
    "depth": Line("ResNet-20/32/44, layers", "layers", {d: Point(f"resnet{d}") for d in (20, 32, 44)}),
    "depth18": Line("ResNet-18/34, layers", "layers", {d: Point(f"resnet{d}") for d in (18, 34)}),
    "width": Line("ConvNet, width", "width", {w: _convnet(w) for w in (8, 16, 32, 64)}),
    "steps": Line("ConvNet-16, local steps", "local steps", {s: _convnet(steps=s) for s in STEPS}),
    "kept": Line("the same, graph kept", "local steps", {s: _convnet(steps=s, graph="kept") for s in STEPS}),
    "recomputed": Line(
        "the same, steps recomputed", "local steps", {s: _convnet(steps=s, graph="recomputed") for s in STEPS}
    ),
}
