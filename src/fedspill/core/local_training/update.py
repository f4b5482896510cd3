"""What a client computes, differentiable in its inputs.

The simulated client and every gradient-matching attack call this one code, so an attack never matches a
protocol that differs subtly from the one that it attacks.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from fedspill.core.errors import BadInput
from fedspill.core.local_training.steps import (
    FedAvg,
    FedSGD,
    LocalTraining,
    first_state,
    local_step,
    loss_gradients,
    minibatches,
)
from fedspill.core.model import Model
from fedspill.core.types import Batch, Encoded, Update, UpdateKind

Heard = Callable[[int], None]
"""Told how many examples a client has gone through so far."""


def unheard(done: int) -> None:
    """Nobody listens."""


def local_update(model: Model, batch: Batch, training: LocalTraining) -> Update:
    """What a client with `batch` sends; the caller's values are not attached to any graph."""
    batch = batch.to(model.like)
    return encoded_update(model, model.input.encode(batch.inputs), batch.labels, training)


def encoded_update(
    model: Model,
    z: Encoded,
    labels: Tensor,
    training: LocalTraining,
    *,
    create_graph: bool = False,
) -> Update:
    """`local_update` on encoded inputs; with `create_graph` differentiable in `z` and in soft `labels`.

    Args:
        labels: classes (n,), or class probabilities (n, classes) as in joint label optimisation.
    """
    if isinstance(training, FedSGD):
        return _gradient_update(model, z, labels, training, create_graph)
    return _trained_update(model, z, labels, training, create_graph)


def streamed_gradient(model: Model, parts: Iterable[Batch], training: FedSGD, progress: Heard = unheard) -> Update:
    """`local_update` of all parts together, with no more than one part in memory at a time.

    Args:
        model: in eval mode; its dtype is that of the sums, as on a client.
        parts: micro-batches of the one batch, of any sizes; each is moved to the model's device when its turn comes.
        training: which parameters are trained.
        progress: told after every part.

    Raises:
        BadInput: the model is in train mode, where batch statistics need the whole batch; or there is no part.
    """
    if model.training:
        raise BadInput(
            "mode='train' was got with micro-batches; batch statistics need the whole batch, use mode='eval'"
        )
    return weighted_mean(((len(part), local_update(model, part, training)) for part in parts), progress)


def weighted_mean(parts: Iterable[tuple[int, Update]], progress: Heard = unheard) -> Update:
    """The mean of mean gradients, each with its number of examples; one of them is held at a time.

    Raises:
        BadInput: there is none.
    """
    total, kind, seen = dict[str, Tensor](), UpdateKind.GRADIENT, 0
    for number, update in parts:
        for name, value in update.values.items():
            total[name] = total[name].add_(value, alpha=number) if name in total else value * number
        kind, seen = update.kind, seen + number
        progress(seen)
    if not seen:
        raise BadInput("no part of a batch was got; at least 1 example is needed")
    return Update(kind, {k: v.div_(seen) for k, v in total.items()})


def _gradient_update(model: Model, z: Tensor, labels: Tensor, training: FedSGD, create_graph: bool) -> Update:
    names = model.trained_names(training.trainable)
    current = {k: model.params[k].detach().requires_grad_() for k in names}
    gradients, buffers = loss_gradients(model, current, model.buffers, z, labels, create_graph)
    return Update(UpdateKind.GRADIENT, gradients, buffers if model.training else None)


def _trained_update(model: Model, z: Tensor, labels: Tensor, training: FedAvg, create_graph: bool) -> Update:
    state = start = first_state(model, training)
    for minibatch in minibatches(training, len(z)):
        state = local_step(model, state, z[minibatch], labels[minibatch], training, create_graph=create_graph)
    values = {k: v.detach() - state.params[k] for k, v in start.params.items()}
    if not create_graph:
        values = {k: v.detach() for k, v in values.items()}
    return Update(UpdateKind.DELTA, values, state.buffers if model.training else None)


def aggregate_update(
    model: Model,
    z: Encoded,
    labels: Tensor,
    training: LocalTraining,
    clients: int = 1,
    *,
    create_graph: bool = False,
) -> Update:
    """The mean of the updates of `clients` clients that hold equal, consecutive shares of the examples.

    This is all that the server sees under secure aggregation. For FedSGD it is the gradient over all examples.

    Raises:
        BadInput: the examples cannot be shared out equally.
    """
    parts = equal_shares(len(z), clients)
    if clients == 1 or (isinstance(training, FedSGD) and not model.training):
        return encoded_update(model, z, labels, training, create_graph=create_graph)
    return mean_update([encoded_update(model, z[p], labels[p], training, create_graph=create_graph) for p in parts])


def equal_shares(num_examples: int, clients: int) -> list[slice]:
    """The examples of every client, consecutive.

    Raises:
        BadInput: the examples cannot be shared out equally.
    """
    if num_examples % clients:
        raise BadInput(f"{num_examples} examples cannot be shared out equally to {clients} clients")
    share = num_examples // clients
    return [slice(first, first + share) for first in range(0, num_examples, share)]


def mean_update(updates: list[Update]) -> Update:
    """The mean of updates with equal weights; buffers too, where the protocol sends them."""
    first = updates[0]
    values = {k: torch.stack([u.values[k] for u in updates]).mean(0) for k in first.values}
    sent = [u.buffers for u in updates if u.buffers is not None]
    buffers = {
        k: torch.stack([b[k] for b in sent]).double().mean(0).to(v.dtype) for k, v in (first.buffers or {}).items()
    }
    return Update(first.kind, values, buffers if sent else None)
