"""What tests of neuron exclusivity share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.attacks.nex import NEX
from fedspill.core.inputs import ImageSpec, InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.types import Batch, Reconstruction

SPEC = ImageSpec((3, 6, 6), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))


D64 = torch.zeros((), dtype=torch.float64)


PAPER, STRONG = NEX(), NEX(least=1, peel=True, scale="fitted")


def drawn(module: nn.Module, spec: InputSpec = SPEC, dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    rng = stream(seed, "nex", "net")
    params = {
        k: (rand(tuple(p.shape), rng, D64) * 2 - 1) * (0.1 if p.ndim == 1 else (3 / p[0].numel()) ** 0.5)
        for k, p in module.named_parameters()
    }
    module = module.to_empty(device="cpu")
    buffers = {k: torch.zeros_like(v) if "mean" in k else torch.ones_like(v) for k, v in module.named_buffers()}
    return Model(module, params, buffers, functional.cross_entropy, spec).to("cpu", dtype)


def mlp(*hidden: int, classes: int = 10, bias: tuple[bool, ...] | None = None, **more) -> Model:
    layers: list[nn.Module] = [nn.Flatten()]
    sizes = [108, *hidden, classes]
    biases = bias or (True,) * (len(sizes) - 1)
    for inside, outside, biased in zip(sizes[:-1], sizes[1:], biases, strict=True):
        layers += [nn.Linear(inside, outside, bias=biased, device="meta"), nn.ReLU()]
    return drawn(nn.Sequential(*layers[:-1]), **more)


def pictures(n: int, seed: int = 0, dtype: torch.dtype = torch.float64, classes: int = 10) -> Batch:
    rng = stream(seed, "nex", "pictures", n)
    return Batch(rand((n, *SPEC.shape), rng, D64).to(dtype), torch.randint(classes, (n,), generator=rng))


def read(
    attack: NEX, model: Model, batch: Batch, training: LocalTraining | None = None, *, known: bool = False
) -> Reconstruction:
    training = training or FedSGD()
    held = ServerKnowledge(model, num_examples=len(batch) if known else None, local_training=training)
    return attack.reconstruct(local_update(model, batch, training), held, stream(0, "attack"))


def expected(attack: NEX, model: Model, batch: Batch) -> Tensor:
    return attack.predict(model, model.input.encode(batch.inputs)).recoverable


def sorted_labels(labels: Tensor | None) -> list[int]:
    assert labels is not None
    return sorted(labels.tolist())
