"""What tests of trap weights share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedspill.core.inputs import CategoricalColumn, ImageSpec, InputSpec, NumericColumn, TableSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.rng import rand, stream
from fedspill.core.roles import Prediction, Predicts, Tampered
from fedspill.core.types import Batch, Reconstruction
from fedspill.tamperings.trap_weights import TrapWeights

SPEC = ImageSpec((3, 16, 16), mean=(0.5, 0.4, 0.45), std=(0.25, 0.2, 0.3))


TRAP = TrapWeights(examples=16)


TABLE = TableSpec(
    (
        *(NumericColumn(f"count {k}", 20.0 + k, 10.0, 0.0, 60.0, 1.0) for k in range(6)),
        *(CategoricalColumn(f"word {k}", ("a", "b", "c", "d", "e")) for k in range(8)),
    )
)


def model_of(module: nn.Module, spec: InputSpec = SPEC) -> Model:
    module = module.to_empty(device="cpu")
    rng = stream(0, "trap", "net")
    params = {
        k: (rand(tuple(p.shape), rng, torch.zeros(())) * 2 - 1) * (0.1 if p.ndim == 1 else p[0].numel() ** -0.5)
        for k, p in module.named_parameters()
    }
    return Model(module, params, {}, functional.cross_entropy, spec)


def mlp(spec: InputSpec = SPEC, rows: int = 200, classes: int = 10, activation: type[nn.Module] = nn.ReLU) -> Model:
    features = torch.Size(spec.encoded_shape).numel()
    with torch.device("meta"):
        tail = [nn.Linear(rows, 40), nn.ReLU(), nn.Linear(40, classes)] if classes > 2 else [nn.Linear(rows, classes)]
        net = nn.Sequential(nn.Flatten(), nn.Linear(features, rows), activation(), *tail)
    return model_of(net, spec)


def pictures(n: int, name: str = "private", *, bits: bool = True) -> Batch:
    """Smooth pictures with some grain, of 8 bits or real numbers."""
    rng = stream(0, "trap", name, n)
    smooth = functional.interpolate(rand((n, 3, 4, 4), rng, torch.zeros(())), size=16, mode="bilinear")
    pixels = (smooth + 0.1 * rand((n, 3, 16, 16), rng, smooth)) / 1.1
    return Batch((pixels * 255).round() / 255 if bits else pixels, torch.arange(n) % 10)


def people(n: int, name: str = "private") -> Batch:
    r = rand((n, 14), stream(0, "trap", name, n), torch.zeros(()))
    return Batch(torch.cat([(r[:, :6] * 60).round(), (r[:, 6:] * 5).floor()], 1), torch.arange(n) % 2)


def sent(tampering: TrapWeights, model: Model, public: Batch | None = None) -> Tampered:
    if public is None:
        public = people(64, "public") if isinstance(model.input, TableSpec) else pictures(64, "public")
    return tampering.tamper(model, public, 0, stream(0, "server"))


def read(
    tampered: Tampered, batch: Batch, training: LocalTraining | None = None, *, known: bool = True
) -> Reconstruction:
    training = training or FedSGD()
    assert tampered.readout is not None
    update = local_update(tampered.model, batch, training)
    knowledge = ServerKnowledge(tampered.model, num_examples=len(batch) if known else None, local_training=training)
    return tampered.readout.reconstruct(update, knowledge, stream(0, "attack"))


def expected(tampered: Tampered, batch: Batch) -> Prediction:
    assert isinstance(tampered.readout, Predicts)
    return tampered.readout.predict(tampered.model, tampered.model.input.encode(batch.inputs))


def errors(got: Reconstruction, batch: Batch) -> Tensor:
    """(n, m), the largest difference of each candidate from each example."""
    return (batch.inputs[:, None] - got.inputs[None]).flatten(2).abs().amax(2)


def certified(got: Reconstruction) -> Tensor:
    return torch.tensor([mark == "alone" for mark in got.marks])
