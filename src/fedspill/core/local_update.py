"""What a client computes, differentiable in its inputs.

The simulated client and every gradient-matching attack call this one code, so an attack never matches a
protocol that differs subtly from the one that it attacks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Batch, Encoded, Params, Update, UpdateKind


@dataclass(frozen=True)
class FedSGD:
    """Send the mean gradient over all examples.

    Attributes:
        trainable: patterns of parameter names (`fnmatch`); ("head.*",) is head-only training.
    """

    trainable: tuple[str, ...] = ("*",)


@dataclass(frozen=True)
class FedAvg:
    """Train locally with SGD and send the change of the parameters (McMahan et al. 2017).

    Mini-batches are taken in the order of the examples, the last one may be smaller; one epoch is one pass.

    Attributes:
        epochs: E, passes over the local examples.
        minibatch_size: B; None is one full batch.
        lr: step size of the local SGD.
        momentum: as in `torch.optim.SGD`, no dampening, no Nesterov.
        weight_decay: added to the gradient, as in `torch.optim.SGD`.
        trainable: patterns of parameter names (`fnmatch`).
    """

    epochs: int = 1
    minibatch_size: int | None = None
    lr: float = 0.1
    momentum: float = 0.0
    weight_decay: float = 0.0
    trainable: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        if self.epochs < 1 or (self.minibatch_size is not None and self.minibatch_size < 1):
            raise BadInput(f"epochs={self.epochs}, minibatch_size={self.minibatch_size}: both must be at least 1")
        if not self.lr > 0:
            raise BadInput(f"lr={self.lr}: the local learning rate must be above 0")

    def local_steps(self, num_examples: int) -> int:
        """How many SGD steps a client with this many examples takes."""
        size = self.minibatch_size or num_examples
        return self.epochs * -(-num_examples // size)


LocalTraining = FedSGD | FedAvg

Heard = Callable[[int], None]
"""Told how many examples a client has gone through so far."""


def unheard(done: int) -> None:
    """Nobody listens."""


def trained_names(names: Iterator[str] | list[str], trainable: tuple[str, ...]) -> list[str]:
    """The parameters that the patterns select, in the model's order.

    Raises:
        BadInput: a pattern selects nothing.
    """
    names = list(names)
    for pattern in trainable:
        if not any(fnmatchcase(name, pattern) for name in names):
            shown = names if len(names) <= 8 else [*names[:8], "..."]
            raise BadInput(f"trainable={pattern!r} matches none of the parameters {shown}")
    return [n for n in names if any(fnmatchcase(n, p) for p in trainable)]


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
    names = trained_names(list(model.params), training.trainable)
    current = {k: model.params[k].detach().requires_grad_() for k in names}
    gradients, buffers = _gradients(model, current, model.buffers, z, labels, create_graph)
    return Update(UpdateKind.GRADIENT, gradients, buffers if model.training else None)


def _trained_update(model: Model, z: Tensor, labels: Tensor, training: FedAvg, create_graph: bool) -> Update:
    names = trained_names(list(model.params), training.trainable)
    start = {k: model.params[k].detach() for k in names}
    current = {k: v.clone().requires_grad_() for k, v in start.items()}
    buffers, velocity = model.buffers, dict[str, Tensor]()
    size = training.minibatch_size or len(z)
    for _ in range(training.epochs):
        for first in range(0, len(z), size):
            part = slice(first, first + size)
            gradients, buffers = _gradients(model, current, buffers, z[part], labels[part], create_graph)
            step = {k: g + training.weight_decay * current[k] for k, g in gradients.items()}
            if training.momentum:
                velocity = {k: training.momentum * velocity[k] + s for k, s in step.items()} if velocity else step
                step = velocity
            current = {k: current[k] - training.lr * s for k, s in step.items()}
            if not create_graph:
                current = {k: v.detach().requires_grad_() for k, v in current.items()}
                velocity = {k: v.detach() for k, v in velocity.items()}
    values = {k: start[k] - current[k] for k in names}
    if not create_graph:
        values = {k: v.detach() for k, v in values.items()}
    return Update(UpdateKind.DELTA, values, buffers if model.training else None)


def _gradients(
    model: Model, current: Params, buffers: Params, z: Tensor, labels: Tensor, create_graph: bool
) -> tuple[dict[str, Tensor], Params]:
    # Fused attention has no second derivative; the client computes the same, so that both agree.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits, after = model.forward({**model.params, **current}, buffers, z)
        loss = model.loss_fn(logits, labels)
        found = torch.autograd.grad(loss, list(current.values()), create_graph=create_graph, allow_unused=True)
    gradients = cast("Sequence[Tensor | None]", found)  # None for a parameter that the loss does not use
    pairs = zip(current.items(), gradients, strict=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in pairs}, after


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
    if len(z) % clients:
        raise BadInput(f"{len(z)} examples cannot be shared out equally to {clients} clients")
    if clients == 1 or (isinstance(training, FedSGD) and not model.training):
        return encoded_update(model, z, labels, training, create_graph=create_graph)
    share = len(z) // clients
    parts = [slice(first, first + share) for first in range(0, len(z), share)]
    return mean_update([encoded_update(model, z[p], labels[p], training, create_graph=create_graph) for p in parts])


def mean_update(updates: list[Update]) -> Update:
    """The mean of updates with equal weights; buffers too, where the protocol sends them."""
    first = updates[0]
    values = {k: torch.stack([u.values[k] for u in updates]).mean(0) for k in first.values}
    sent = [u.buffers for u in updates if u.buffers is not None]
    buffers = {
        k: torch.stack([b[k] for b in sent]).double().mean(0).to(v.dtype) for k, v in (first.buffers or {}).items()
    }
    return Update(first.kind, values, buffers if sent else None)
