"""Blind certificates: does the update itself confirm a candidate? None of them sees the truth.

The ratio dW / db of a row that several examples share is a mixture that may look like an input. What a
mixture cannot do is reproduce the numbers in the update when it is passed through the network.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.types import Update, UpdateKind


def range_violation(spec: InputSpec, z: Float[Tensor, "n ..."]) -> Float[Tensor, " n"]:
    """How far each encoded candidate lies outside the valid range, as a fraction of its largest value."""
    valid = spec.project(z)
    out_of_range, size = (z - valid).abs().flatten(1), valid.abs().flatten(1)
    return out_of_range.amax(1) / size.amax(1).clamp_min(1e-12)


def protocol(update: Update, knowledge: ServerKnowledge) -> LocalTraining | None:
    """The client's protocol as far as the server can tell: a gradient means FedSGD."""
    if update.kind is UpdateKind.GRADIENT:
        return FedSGD()
    return knowledge.local_training


def replay_residual(
    update: Update,
    knowledge: ServerKnowledge,
    names: Iterable[str],
    z: Float[Tensor, "n ..."],
    labels: Int[Tensor, " n"],
) -> float | None:
    """||replayed - observed|| / ||observed|| over the named tensors, if the clients held just these examples.

    None if the protocol is not known, so that it cannot be replayed.
    """
    training, model = protocol(update, knowledge), knowledge.model
    if training is None:
        return None
    labels = labels.to(model.like.device)
    got = aggregate_update(model, z.to(model.like), labels, training, knowledge.num_clients).values
    observed = {k: update.values[k].double() for k in names}
    error = sum(float((got[k].double() - v).square().sum()) for k, v in observed.items())
    return (error / max(1e-300, sum(float(v.square().sum()) for v in observed.values()))) ** 0.5


@dataclass(frozen=True)
class Explanation:
    """How well one candidate with its best label accounts for the rows that it is said to own.

    Attributes:
        label: the label that fits best.
        residual: relative error over the rows, and over the silent rows that it must not touch.
        bias_grad: the candidate's whole share of the layer's bias gradient.
    """

    label: int
    residual: float
    bias_grad: Float[Tensor, " out"]


def explanation(
    model: Model,
    bias: str,
    z: Float[Tensor, "..."],
    labels: Int[Tensor, " candidates"],
    observed: Float[Tensor, " out"],
    rows: Int[Tensor, " rows"],
    share: float,
) -> Explanation:
    """Passes a candidate through the network with every label and compares its bias gradient with the rows.

    Args:
        model: as sent; float64 is advised.
        bias: name of the layer's bias.
        z: one encoded candidate.
        labels: those to try.
        observed: the layer's mean bias gradient; rows that are exactly 0 were touched by no example.
        rows: those that only this candidate is said to have touched.
        share: the weight of one example in the mean, 1/n.
    """
    silent = observed == 0
    compared = silent.index_fill(0, rows, True)
    size = float(observed[rows].norm().clamp_min(1e-300))
    gradients = [share * g for g in _bias_gradients(model, bias, z, labels)]
    residuals = [float((g - observed)[compared].norm()) / size for g in gradients]
    best = min(range(len(residuals)), key=residuals.__getitem__)
    return Explanation(int(labels[best]), residuals[best], gradients[best])


def _bias_gradients(model: Model, bias: str, z: Tensor, labels: Tensor) -> list[Tensor]:
    value = model.params[bias].detach().requires_grad_()
    with torch.enable_grad():
        logits = model.logits({**model.params, bias: value}, z.to(model.like)[None])
        losses = [model.loss_fn(logits, label[None]) for label in labels.to(model.like.device)]
        return [torch.autograd.grad(loss, value, retain_graph=True)[0].double() for loss in losses]
