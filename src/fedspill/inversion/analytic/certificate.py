"""Blind certificates: does the update itself confirm a candidate? None of them sees the truth.

The ratio dW / db of a row that several examples share is a mixture that may look like an input. What a
mixture cannot do is reproduce the numbers in the update when it is passed through the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.local_training.update import FedSGD, LocalTraining, aggregate_update
from fedspill.core.model import Model
from fedspill.core.types import Update, UpdateKind
from fedspill.inversion.gradients.scale import best_factor
from fedspill.inversion.network.trace import probe_inputs


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


@dataclass(frozen=True)
class Replayed:
    """An update compared with that of supposed examples.

    Attributes:
        residual: ||factor * replayed - observed|| / ||observed||.
        factor: that fits best; the update may have been clipped or scaled on its way. 0 if nothing fits.
    """

    residual: float
    factor: float


def replay(
    update: Update,
    knowledge: ServerKnowledge,
    names: Sequence[str],
    z: Float[Tensor, "n ..."],
    labels: Tensor,
    *,
    free: bool = True,
) -> Replayed | None:
    """What the clients would have sent of the named tensors if they held just these examples, and how well it fits.

    None if the protocol is not known, so that it cannot be replayed.

    Args:
        update: gradient or delta.
        knowledge: of the server.
        names: of the tensors, with a value in the update each.
        z: encoded examples.
        labels: theirs, as the loss takes them.
        free: fit a factor, else it is 1.
    """
    training, model = protocol(update, knowledge), knowledge.model
    if training is None:
        return None
    labels = labels.to(model.like.device)
    sent = aggregate_update(model, z.to(model.like), labels, training, knowledge.num_clients).values
    observed, shown = (torch.cat([v[k].double().flatten() for k in names]) for v in (update.values, sent))
    factor = max(0.0, best_factor(shown, observed)) if free else 1.0
    return Replayed(float((factor * shown - observed).norm() / observed.norm().clamp_min(1e-300)), factor)


def has_directions(model: Model) -> bool:
    """Examples of one class differ in the direction of their derivative by the logits, not only in its size.

    With two classes they do not: a mixture of several then is one example but for a factor.
    """
    with torch.no_grad():
        logits = model.logits(model.params, probe_inputs(model.input, 2, model.like))
    return logits.ndim > 1 and logits.shape[-1] > 2


@dataclass(frozen=True)
class Explanation:
    """How well one candidate with its best label accounts for the rows that it is said to own.

    Attributes:
        label: the label that fits best.
        residual: relative error over the rows, and over the silent rows that it must not touch.
        bias_grad: the candidate's whole share of the layer's bias gradient.
        share: of the example in the mean, as given or as it fits best.
    """

    label: int
    residual: float
    bias_grad: Float[Tensor, " out"]
    share: float


def explanation(
    model: Model,
    bias: str,
    z: Float[Tensor, "..."],
    labels: Int[Tensor, " candidates"],
    observed: Float[Tensor, " out"],
    rows: Int[Tensor, " rows"],
    share: float | None,
) -> Explanation:
    """Passes a candidate through the network with every label and compares its bias gradient with the rows.

    Args:
        model: as sent; float64 is advised.
        bias: name of the layer's bias.
        z: one encoded candidate.
        labels: those to try.
        observed: the layer's mean bias gradient; rows that are exactly 0 were touched by no example.
        rows: those that only this candidate is said to have touched.
        share: the weight of one example in the mean, 1/n; None fits it, above 0.
    """
    silent = observed == 0
    compared = silent.index_fill(0, rows, True)
    size = float(observed[rows].norm().clamp_min(1e-300))
    shown = _bias_gradients(model, bias, z, labels)
    shares = [max(0.0, best_factor(g[compared], observed[compared])) if share is None else share for g in shown]
    residuals = [float((s * g - observed)[compared].norm()) / size for s, g in zip(shares, shown, strict=True)]
    best = min(range(len(residuals)), key=residuals.__getitem__)
    return Explanation(int(labels[best]), residuals[best], shares[best] * shown[best], shares[best])


def _bias_gradients(model: Model, bias: str, z: Tensor, labels: Tensor) -> list[Tensor]:
    value = model.params[bias].detach().requires_grad_()
    with torch.enable_grad():
        logits = model.logits({**model.params, bias: value}, z.to(model.like)[None])
        losses = [model.loss_fn(logits, label[None]) for label in labels.to(model.like.device)]
        return [torch.autograd.grad(loss, value, retain_graph=True)[0].double() for loss in losses]
