"""One step of a client, differentiable in its inputs."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fedspill.core.local_training.conditions import DTYPES, Conditions, clipped
from fedspill.core.local_training.optimizers import Memory
from fedspill.core.local_training.protocol import FedAvg as FedAvg
from fedspill.core.local_training.protocol import FedSGD as FedSGD
from fedspill.core.local_training.protocol import LocalTraining as LocalTraining
from fedspill.core.local_training.protocol import Rows
from fedspill.core.model import Model
from fedspill.core.rng import seeded_globals
from fedspill.core.types import Encoded, Params

PLAIN = Conditions()


class LocalState(NamedTuple):
    """A client between two steps of FedAvg.

    Attributes:
        params: the trained parameters; they require gradients.
        memory: what the optimiser keeps of each parameter that has taken a step.
        buffers: of the module.
    """

    params: dict[str, Tensor]
    memory: dict[str, Memory]
    buffers: Params


def first_state(model: Model, training: FedAvg) -> LocalState:
    """The client before its first step: the trained parameters as the server sent them."""
    names = model.trained_names(training.trainable)
    return LocalState({k: model.params[k].detach().clone().requires_grad_() for k in names}, {}, model.buffers)


class Turn(NamedTuple):
    """Which step of a client's training.

    Attributes:
        number: of the step, from 0.
        steps: in all.
        rows: the examples of each of its mini-batches.
    """

    number: int
    steps: int
    rows: list[Rows]


def turns(training: FedAvg, num_examples: int) -> list[Turn]:
    """All steps of a client with this many examples.

    Raises:
        BadInput: there is none.
    """
    batches = training.batches(num_examples)
    return [Turn(number, len(batches), rows) for number, rows in enumerate(batches)]


def taken(values: Tensor, rows: Rows) -> Tensor:
    """The examples of a mini-batch."""
    return values[rows] if isinstance(rows, slice) else values[list(rows)]


def local_step(
    model: Model,
    state: LocalState,
    z: Encoded,
    labels: Tensor,
    training: FedAvg,
    turn: Turn,
    *,
    create_graph: bool = False,
) -> LocalState:
    """One step; without `create_graph` the new state is attached to nothing.

    Args:
        z: all examples of the client, of which `turn` takes some; labels alike.
    """
    gradients, buffers = step_gradients(model, state, z, labels, training, turn, create_graph)
    if training.conditions.loss_scale != 1 and not all(bool(g.isfinite().all()) for g in gradients.values()):
        return state._replace(buffers=buffers)  # as GradScaler skips it
    return followed(state, gradients, training, turn, create_graph)._replace(buffers=buffers)


def followed(
    state: LocalState, gradients: dict[str, Tensor], training: FedAvg, turn: Turn, create_graph: bool
) -> LocalState:
    """The parameters after the optimiser's step along these gradients; those without one stay."""
    lr, rule = training.lr * training.schedule.factor(turn.number, turn.steps), training.rule
    params, memory = dict(state.params), dict(state.memory)
    for name, gradient in gradients.items():
        value, kept = rule.step(params[name], gradient, memory.get(name, Memory()), lr)
        if not create_graph:
            value = value.detach().requires_grad_()
            kept = Memory(kept.steps, {k: v.detach() for k, v in kept.tensors.items()})
        params[name], memory[name] = value, kept
    return LocalState(params, memory, state.buffers)


def step_gradients(
    model: Model, state: LocalState, z: Encoded, labels: Tensor, training: FedAvg, turn: Turn, create_graph: bool
) -> tuple[dict[str, Tensor], Params]:
    """The gradients that the optimiser is given, over all mini-batches of a step, and the buffers afterwards."""
    total, buffers = dict[str, Tensor](), state.buffers
    for part, rows in enumerate(turn.rows):
        rng = training.rng(turn.number, part)
        inputs = taken(z, rows), taken(labels, rows)
        found, buffers = loss_gradients(
            model, state.params, buffers, *inputs, create_graph, training.conditions, rng, training.accumulate
        )
        total = {k: total[k] + found[k] if k in total and k in found else (found | total)[k] for k in found | total}
    if training.proximal:
        share = training.proximal * len(turn.rows) / training.accumulate
        pulled = {k: share * (v - model.params[k]) for k, v in state.params.items()}
        total = {k: p + total[k] if k in total else p for k, p in pulled.items()}
    return clipped(total, training.conditions.clip_norm), buffers


def loss_gradients(
    model: Model,
    current: Params,
    buffers: Params,
    z: Encoded,
    labels: Tensor,
    create_graph: bool,
    conditions: Conditions = PLAIN,
    rng: torch.Generator | None = None,
    divisor: int = 1,
) -> tuple[dict[str, Tensor], Params]:
    """Gradients of the loss by those of the parameters `current` that it reaches, and the buffers afterwards.

    Args:
        current: require gradients.
        conditions: precision, loss scale and augmentation; clipping is not of one mini-batch.
        rng: what augmentation and dropout are drawn from; None leaves augmentation out, and the global generators to
            the network.
        divisor: the loss is divided by this.
    """
    if rng is not None and conditions.augmentation:
        z = conditions.augmentation(z, model.input, rng)
    # Fused attention has no second derivative; the client computes the same, so that both agree.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), nullcontext() if rng is None else seeded_globals(rng):
        with _autocast(conditions, z.device):
            logits, after = model.forward({**model.params, **current}, buffers, z)
            loss = model.loss_fn(logits, labels)
        scale = conditions.loss_scale / divisor
        scaled = loss if scale == 1 else loss * scale
        if not scaled.requires_grad:
            return {}, after
        derivatives = torch.autograd.grad(scaled, list(current.values()), create_graph=create_graph, allow_unused=True)
    # None for a parameter that the loss does not reach.
    named = {k: g for k, g in zip(current, derivatives, strict=True) if g is not None}  # pyright: ignore[reportUnnecessaryComparison]
    dense = {k: g.to_dense() if g.is_sparse else g for k, g in named.items()}
    if conditions.loss_scale != 1:
        dense = {k: g / conditions.loss_scale for k, g in dense.items()}
    return dense, after


def _autocast(conditions: Conditions, device: torch.device) -> AbstractContextManager[object]:
    dtype = DTYPES.get(conditions.precision)
    if dtype is None:
        return nullcontext()
    # No cache: a cast that is kept belongs to the graph of another evaluation.
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)
