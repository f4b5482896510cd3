"""Simulated clients: with `threat.observe` the only holders of private data."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fedspill.core.errors import BadInput
from fedspill.core.local_training.update import (
    FedSGD,
    Heard,
    LocalTraining,
    local_update,
    streamed_gradient,
    unheard,
    weighted_mean,
)
from fedspill.core.model import BATCH_NORMS, Model
from fedspill.core.rng import seeded_globals, split, stream
from fedspill.core.roles import ClientContext, Stages
from fedspill.core.types import Batch, Params, Update, UpdateKind


@dataclass(frozen=True)
class Client:
    """One participant.

    Attributes:
        private: its examples.
        training: its protocol.
        defences: in the order in which they act; `prepare` is not for the client, see `Stages`.
        micro_batch: the gradient is summed over parts of so many examples, and only one of them is on the
            model's device at a time; None computes it in one pass. FedSGD in eval mode only.

    Raises:
        BadInput: micro-batches below 1, or with FedAvg.
    """

    private: Batch
    training: LocalTraining
    defences: Sequence[Stages] = ()
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.micro_batch is None:
            return
        if self.micro_batch < 1:
            raise BadInput(f"micro_batch={self.micro_batch}: at least 1 example is needed")
        if not isinstance(self.training, FedSGD):
            raise BadInput("micro_batch needs protocol='fedsgd', got 'fedavg', whose mini-batches bound the memory")

    def respond(self, model: Model, rng: torch.Generator, progress: Heard = unheard) -> Update | None:
        """What it sends for a model that it received; None if a defence withheld the update."""
        streams = split(rng, len(self.defences))
        batch = self.private if self.micro_batch else self.private.to(model.like)
        for defence, generator in zip(self.defences, streams, strict=True):
            batch = defence.transform(batch, generator)
            batch = batch if defence.blend is None else defence.blend(batch, model, generator)
        update: Update | None = self._compute(model, batch, streams, progress)
        context = ClientContext(model, batch, self.training)
        for defence, generator in zip(self.defences, streams, strict=True):
            if update is None:
                return None
            update = defence.protect(update, context, generator)
        return update

    def _compute(self, model: Model, batch: Batch, streams: list[torch.Generator], progress: Heard) -> Update:
        if self.micro_batch is None:
            return self._in_one(model, batch, streams)
        parts = in_parts(batch, self.micro_batch)
        if isinstance(self.training, FedSGD) and all(d.per_example is None for d in self.defences):
            return streamed_gradient(model, parts, self.training, progress)
        moved = (examples.to(model.like) for examples in parts)
        return weighted_mean(((len(examples), self._in_one(model, examples, streams)) for examples in moved), progress)

    def _in_one(self, model: Model, batch: Batch, streams: list[torch.Generator]) -> Update:
        """The update, with the gradients of single examples in the hands of the defences that want them."""
        pairs = zip(self.defences, streams, strict=True)
        stages = [(d.per_example, generator) for d, generator in pairs if d.per_example is not None]
        if not stages:
            return local_update(model, batch, self.training)
        if not isinstance(self.training, FedSGD):
            raise BadInput("a defence on gradients of single examples needs protocol='fedsgd', got 'fedavg'")
        single = [local_update(model, batch[i : i + 1], self.training.of_client(i)) for i in range(len(batch))]
        gradients: Params = {k: torch.stack([u.values[k] for u in single]) for k in single[0].values}
        for stage, generator in stages:
            gradients = stage(gradients, generator)
        return Update(UpdateKind.GRADIENT, {k: g.mean(0) for k, g in gradients.items()}, single[0].buffers)


def in_parts(batch: Batch, size: int | None) -> Iterator[Batch]:
    """Consecutive parts of `size` examples, the last may be smaller; None is one part."""
    step = size or len(batch)
    yield from (batch[first : first + step] for first in range(0, len(batch), step))


def bn_statistics(model: Model, batch: Batch, micro_batch: int | None = None) -> Params:
    """Mean and variance of a batch at the input of every BatchNorm layer: "NAME.mean" and "NAME.var".

    Args:
        model: in train mode a layer's input depends on the whole batch, so `micro_batch` must be None then.
        batch: the private examples.
        micro_batch: examples in memory at a time; None is all.
    """
    mean, var, seen = dict[str, Tensor](), dict[str, Tensor](), 0
    for examples in in_parts(batch, micro_batch):
        share = len(examples) / (seen := seen + len(examples))
        for name, (m, v) in _part_statistics(model, examples).items():
            # Chan et al. 1979: two parts' means and variances, joined without a sum of squares.
            step = m - mean.get(name, m)
            var[name] = v * share + var.get(name, v) * (1 - share) + step.square() * share * (1 - share)
            mean[name] = mean.get(name, m) + step * share
    return {f"{k}.{word}": d[k].to(model.like) for k in mean for word, d in (("mean", mean), ("var", var))}


def _part_statistics(model: Model, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
    seen = dict[str, tuple[Tensor, Tensor]]()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach().transpose(0, 1).flatten(1)
            seen[name] = x.mean(1).double(), x.var(1, unbiased=False).double()

        return hook

    layers = [(n, m) for n, m in model.module.named_modules() if isinstance(m, BATCH_NORMS)]
    handles = [m.register_forward_hook(keep(n)) for n, m in layers]
    try:
        with torch.no_grad(), seeded_globals(stream(0, "statistics")):
            z = model.input.encode(batch.to(model.like).inputs)
            model.forward(model.params, model.buffers, z)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def shared_out(
    private: Batch,
    clients: int,
    training: LocalTraining,
    *,
    defences: Sequence[Stages] = (),
    micro_batch: int | None = None,
) -> list[Client]:
    """Clients with equal, consecutive shares of the examples."""
    share = len(private) // clients
    return [
        Client(part, training if clients == 1 else training.of_client(k), defences, micro_batch)
        for k, part in enumerate(private[k * share : (k + 1) * share] for k in range(clients))
    ]
