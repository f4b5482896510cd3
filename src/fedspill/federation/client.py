"""Simulated clients: with `threat.observe` the only holders of private data."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedspill.core.errors import BadInput
from fedspill.core.local_update import FedSGD, LocalTraining, local_update
from fedspill.core.model import Model
from fedspill.core.roles import ClientContext, Defence
from fedspill.core.types import Batch, Params, Update, UpdateKind

BN_LAYERS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@dataclass(frozen=True)
class Client:
    """One participant: its examples, its protocol, its defences in the order in which they act."""

    private: Batch
    training: LocalTraining
    defences: Sequence[Defence] = ()

    def respond(self, model: Model, rng: torch.Generator) -> Update | None:
        """What it sends for a model that it received; None if a defence withheld the update."""
        for defence in self.defences:
            model = defence.prepare(model)
        batch = self.private.to(model.like)
        for defence in self.defences:
            batch = defence.transform(batch, rng)
        update: Update | None = self._compute(model, batch, rng)
        context = ClientContext(model, batch, self.training)
        for defence in self.defences:
            if update is None:
                return None
            update = defence.protect(update, context, rng)
        return update

    def _compute(self, model: Model, batch: Batch, rng: torch.Generator) -> Update:
        """The update, with the gradients of single examples in the hands of the defences that want them."""
        stages = [d.per_example for d in self.defences if d.per_example is not None]
        if not stages:
            return local_update(model, batch, self.training)
        if not isinstance(self.training, FedSGD):
            raise BadInput("a defence on gradients of single examples needs protocol='fedsgd', got 'fedavg'")
        single = [local_update(model, batch[i : i + 1], self.training) for i in range(len(batch))]
        gradients: Params = {k: torch.stack([u.values[k] for u in single]) for k in single[0].values}
        for stage in stages:
            gradients = stage(gradients, rng)
        return Update(UpdateKind.GRADIENT, {k: g.mean(0) for k, g in gradients.items()}, single[0].buffers)


def bn_statistics(model: Model, batch: Batch) -> Params:
    """Mean and variance of a batch at the input of every BatchNorm layer: "NAME.mean" and "NAME.var"."""
    seen = dict[str, Tensor]()

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach().transpose(0, 1).flatten(1)
            seen[f"{name}.mean"], seen[f"{name}.var"] = x.mean(1), x.var(1, unbiased=False)

        return hook

    layers = [(n, m) for n, m in model.module.named_modules() if isinstance(m, BN_LAYERS)]
    handles = [m.register_forward_hook(keep(n)) for n, m in layers]
    try:
        with torch.no_grad():
            buffers = {k: v.clone() for k, v in model.buffers.items()}
            z = model.input.encode(batch.to(model.like).inputs)
            functional_call(model.module, {**model.params, **buffers}, (z,))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def shared_out(private: Batch, clients: int, training: LocalTraining) -> list[Client]:
    """Clients with equal, consecutive shares of the examples."""
    share = len(private) // clients
    return [Client(private[k * share : (k + 1) * share], training) for k in range(clients)]
