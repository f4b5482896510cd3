"""Protocols of local training, and their steps, differentiable in the inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedspill.core.errors import BadInput
from fedspill.core.model import Model
from fedspill.core.types import Encoded, Params


@dataclass(frozen=True)
class FedSGD:
    """Send the mean gradient over all examples.

    Attributes:
        trainable: names or patterns (`fnmatch`) of parameters; ("head.*",) is head-only training, ("*",) what takes a
            gradient.

    Example:
        >>> import fedspill
        >>> fedspill.FedSGD(trainable=("head.*",)).trainable
        ('head.*',)
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
        trainable: as for `FedSGD`.

    Example:
        >>> import fedspill
        >>> fedspill.FedAvg(epochs=5, minibatch_size=8, lr=0.01, momentum=0.9).lr
        0.01
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


class LocalState(NamedTuple):
    """A client between two steps of FedAvg.

    Attributes:
        params: the trained parameters; they require gradients.
        velocity: of the momentum; {} without, and before the first step.
        buffers: of the module.
    """

    params: dict[str, Tensor]
    velocity: dict[str, Tensor]
    buffers: Params


def first_state(model: Model, training: FedAvg) -> LocalState:
    """The client before its first step: the trained parameters as the server sent them."""
    names = model.trained_names(training.trainable)
    return LocalState({k: model.params[k].detach().clone().requires_grad_() for k in names}, {}, model.buffers)


def minibatches(training: FedAvg, num_examples: int) -> list[slice]:
    """The examples of every local step of all epochs, in order."""
    size = training.minibatch_size or num_examples
    return [slice(first, first + size) for first in range(0, num_examples, size)] * training.epochs


def local_step(
    model: Model, state: LocalState, z: Encoded, labels: Tensor, training: FedAvg, *, create_graph: bool = False
) -> LocalState:
    """One step of SGD on one mini-batch; without `create_graph` the new state is attached to nothing."""
    current, velocity = state.params, state.velocity
    gradients, buffers = loss_gradients(model, current, state.buffers, z, labels, create_graph)
    step = {k: g + training.weight_decay * current[k] for k, g in gradients.items()}
    if training.momentum:
        velocity = {k: training.momentum * velocity[k] + s for k, s in step.items()} if velocity else step
        step = velocity
    current = {k: current[k] - training.lr * s for k, s in step.items()}
    if not create_graph:
        current = {k: v.detach().requires_grad_() for k, v in current.items()}
        velocity = {k: v.detach() for k, v in velocity.items()}
    return LocalState(current, velocity, buffers)


def loss_gradients(
    model: Model, current: Params, buffers: Params, z: Encoded, labels: Tensor, create_graph: bool
) -> tuple[dict[str, Tensor], Params]:
    """Gradients of the mean loss by the parameters `current`, which require them, and the buffers afterwards."""
    # Fused attention has no second derivative; the client computes the same, so that both agree.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        logits, after = model.forward({**model.params, **current}, buffers, z)
        loss = model.loss_fn(logits, labels)
        derivatives = torch.autograd.grad(loss, list(current.values()), create_graph=create_graph, allow_unused=True)
    gradients = cast("Sequence[Tensor | None]", derivatives)  # None for a parameter that the loss does not use
    pairs = zip(current.items(), gradients, strict=True)
    return {k: torch.zeros_like(p) if g is None else g for (k, p), g in pairs}, after
