"""Networks in two halves that differ in architecture, and the client's examples."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

import torch
from torch import Tensor, nn

from fedspill.core.model import Model
from fedspill.core.rng import stream
from fedspill.core.types import Batch, Params
from fedspill.zoo.data import load
from fedspill.zoo.models import build
from fedspill.zoo.statistics import CIFAR10

SHAPE, CLASSES, EXAMPLES, PUBLIC = (3, 32, 32), 10, 8, 1024


@dataclass(frozen=True)
class Network:
    """One architecture.

    Attributes:
        half: "A" or "B": levels are chosen on the one and tried on the other.
        name: by which the zoo knows it.
        trained: kinds of weights that are shipped, or lie under FEDSPILL_DATA.
        steps: of the short training here that stands for the trained ones where there are none.
    """

    half: str
    name: str
    options: Mapping[str, object] = field(default_factory=dict[str, object])
    trained: tuple[str, ...] = ()
    steps: int = 150

    def build(self, weights: str = "untrained", seed: int = 0) -> Model:
        """In eval mode.

        Raises:
            BadInput: its library or its weights are not there.
        """
        return build(
            self.name,
            input_shape=SHAPE,
            num_classes=CLASSES,
            seed=seed,
            weights=weights,
            options=dict(self.options),
            mean=CIFAR10.mean,
            std=CIFAR10.std,
        )


NETWORKS: dict[str, Network] = {
    "lenet": Network("A", "lenet", trained=("trained",)),
    "convnet 16": Network("A", "convnet", {"width": 16}, trained=("trained",)),
    "resnet20": Network("A", "resnet20", trained=("trained",)),
    "mlp 192": Network("A", "mlp", {"hidden": (192,)}),
    "cnn": Network("B", "cnn", trained=("trained", "robust")),
    "strided_cnn": Network("B", "strided_cnn"),
    "shufflenet_v2": Network("B", "shufflenet_v2", steps=30),
    "mlp 128-64": Network("B", "mlp", {"hidden": (128, 64)}),
}
CHECKPOINTS: dict[str, Network] = {
    name: Network("A", name, trained=("trained",)) for name in ("resnet32", "resnet44", "resnet56")
}
"""Of which only the trained weights are looked at."""
ELSEWHERE: dict[str, Network] = {
    "timm resnet10t": Network("A", "timm:resnet10t"),
    "timm mobilenetv3_small_050": Network("A", "timm:mobilenetv3_small_050"),
    "timm test_vit": Network("A", "timm:test_vit", {"img_size": 32, "patch_size": 4}),
    "torchvision mobilenet_v2": Network("B", "torchvision:mobilenet_v2"),
    "torchvision squeezenet1_1": Network("B", "torchvision:squeezenet1_1"),
    "torchvision mnasnet0_5": Network("B", "torchvision:mnasnet0_5"),
}
"""Left out where the library is not installed."""
EVERY = NETWORKS | CHECKPOINTS | ELSEWHERE


@cache
def _cifar(split: str) -> Batch:
    return load("cifar10", split=split).batch


def public() -> Batch:
    """What the server holds."""
    return _cifar("train")[:PUBLIC]


def own(case: str) -> Batch:
    """The client's examples, drawn anew for every case."""
    test = _cifar("test")
    some = torch.randperm(len(test.labels), generator=stream(0, "own", case))[:EXAMPLES]
    return Batch(test.inputs[some], test.labels[some])


def after_steps(model: Model, steps: int, lr: float, *, adversarial: bool = False, batch: int = 32) -> Model:
    """Trained further for some steps of Adam in train mode, on inputs moved against it by 4/255 if adversarial."""
    train, data, rng = replace(model, training=True), _cifar("train"), stream(0, "steps")
    params = {k: v.detach().clone().requires_grad_() for k, v in model.params.items()}
    buffers, adam = dict(model.buffers), torch.optim.Adam(params.values(), lr)
    for _ in range(steps):
        some = torch.randint(0, len(data.labels), (batch,), generator=rng)
        x, y = data.inputs[some], data.labels[some]
        x = _moved(model, params, x, y) if adversarial else x
        adam.zero_grad()
        logits, buffers = train.forward(params, buffers, model.input.encode(x))
        nn.functional.cross_entropy(logits, y).backward()
        nn.utils.clip_grad_norm_(params.values(), 1.0)
        adam.step()
    kept = {k: v.detach().to(model.buffers[k].dtype) for k, v in buffers.items()}
    return model.with_params({k: v.detach().clone() for k, v in params.items()}, kept)


def _moved(model: Model, params: Params, x: Tensor, y: Tensor) -> Tensor:
    z = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.in_eval_mode().loss(params, model.input.encode(z), y), z)
    return (x + 4 / 255 * slope.sign()).clamp(0, 1).detach()
