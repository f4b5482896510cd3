"""Every example of a batch by the gradient of the model that answered to it alone."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.inversion.analytic.candidates import certain_below, labels_to_try
from fedspill.inversion.analytic.certificate import has_directions, range_violation, replay
from fedspill.inversion.gradients.layer import sent
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.per_example.bank import BIAS, OUT, SEEN, WEIGHT

IN_RANGE = 1e-2
SAME = 1e-3
"""Relative distance below which two candidates are one example that was seen twice."""
UNCONFIRMED, MIXED = 0.5, 0.1
"""Confidence in what agrees with itself but was not confirmed by the whole update, and in what does not agree."""


@dataclass(frozen=True)
class Slots:
    """What the models of a bank saw; m slots that saw anything, in their order.

    Attributes:
        numbers: of the slots.
        x: flattened encoded inputs by least squares over a model's rows, float64.
        derivatives: of the loss by the rows, in any common scale.
        residual: how far a model's rows are from agreeing on one input, relative.
    """

    numbers: Int[Tensor, " m"]
    x: Float[Tensor, "m d"]
    derivatives: Float[Tensor, "m rows"]
    residual: Float[Tensor, " m"]

    def only(self, kept: Bool[Tensor, " m"]) -> "Slots":
        """Some of them."""
        return Slots(self.numbers[kept], self.x[kept], self.derivatives[kept], self.residual[kept])


def read_slots(update: Update, knowledge: ServerKnowledge, gain: float) -> Slots:
    """Reads every model of the bank by itself.

    Raises:
        NotApplicable: the bank was not trained, holds no gradient, or the clients' optimiser leaves no ratios.
    """
    for name in (WEIGHT, BIAS):
        sent(update, name, "the bank's tensor")
    gradient = mean_gradient(update, knowledge, (WEIGHT, BIAS)).values
    energy = gradient[BIAS].square().sum(1)
    numbers = (energy > 0).nonzero()[:, 0]
    if not len(numbers):
        raise NotApplicable(f"the gradient of {BIAS!r} is zero: no model of the bank saw an example")
    weight, bias = gradient[WEIGHT][numbers] / gain, gradient[BIAS][numbers]
    x = (bias[:, None] @ weight)[:, 0] / energy[numbers, None]
    left = weight - bias[..., None] * x[:, None]
    residual = left.flatten(1).norm(dim=1) / weight.flatten(1).norm(dim=1).clamp_min(1e-300)
    return Slots(numbers, x, bias, residual)


def read_bank(update: Update, knowledge: ServerKnowledge, gain: float) -> Reconstruction:
    """One candidate for every model that saw something; exact where it saw one example, however often.

    Rows that agree say that a model saw one example. What certifies is the whole update: the candidates, with labels
    that the same gradients tell, are handed to the client's training, and every tensor of what that sends is compared
    with what came.

    Args:
        update: gradient or delta, of a model with a `Bank`.
        knowledge: of the server.
        gain: of the bank.

    Raises:
        NotApplicable: see `read_slots`.
    """
    slots, spec, like = read_slots(update, knowledge, gain), knowledge.model.input, knowledge.model.like
    alone, again = _alone(slots, update, knowledge), _seen_before(slots.x)
    own = slots.only(~again)
    labels = told_labels(update, knowledge, own)
    replayed = _replayed(update, knowledge, own, labels)
    sure = replayed is not None and replayed < certain_below(update, knowledge, tuple(update.values))
    sure = sure and bool(alone[~again].all())
    trust = torch.where(alone, 1.0 if sure else UNCONFIRMED, MIXED)
    trust = torch.where(again, 0.0, trust)
    complete = knowledge.num_examples in (None, len(own.x))
    # Without a replay the rows' agreement counts, as far as it can tell one example from several.
    agreed = replayed is None and complete and bool(alone.all()) and has_directions(knowledge.model)
    shown = labels is not None and not labels.is_floating_point() and not bool(again.any())
    return Reconstruction(
        inputs=spec.decode(slots.x.view(-1, *spec.encoded_shape)).to(like),
        labels=labels.to(like.device) if labels is not None and shown else None,
        label_method="the gradient of each sub-model" if shown else None,
        confidence=trust.to(like),
        converged=sure or agreed,
        notes=_notes(slots, alone, again, replayed, knowledge),
        origins=tuple(f"sub-model {i}" for i in slots.numbers.tolist()),
        marks=tuple(_mark(a, b) for a, b in zip(alone.tolist(), again.tolist(), strict=True)),
    )


def _alone(slots: Slots, update: Update, knowledge: ServerKnowledge) -> Bool[Tensor, " m"]:
    level = certain_below(update, knowledge, (WEIGHT, BIAS))
    return (slots.residual < level) & (_violation(knowledge.model.input, slots.x) < IN_RANGE)


def _violation(spec: InputSpec, x: Float[Tensor, "m d"]) -> Float[Tensor, " m"]:
    return range_violation(spec, x.view(-1, *spec.encoded_shape))


def _seen_before(x: Float[Tensor, "m d"]) -> Bool[Tensor, " m"]:
    """Which are an earlier one again."""
    near = torch.cdist(x, x) < SAME * x.norm(dim=1)
    return near.tril(-1).any(1)


def told_labels(update: Update, knowledge: ServerKnowledge, slots: Slots) -> Int[Tensor, " m"] | Tensor | None:
    """The label of every candidate by which the loss has a derivative in the direction of what came.

    None where the loss takes no classes and no labels are granted.
    """
    model, granted = knowledge.model, knowledge.labels
    z = slots.x.view(-1, *model.input.encoded_shape).to(model.like)
    tries = labels_to_try(model, None)
    if not len(tries):
        return granted if granted is not None and len(granted) == len(z) else None
    points = _logits_on_the_way(update, knowledge, slots, z)
    shown = [torch.stack([_by_rows(model, logits, int(k)) for logits in points]).sum(0) for k in tries]
    closeness = torch.stack([functional.cosine_similarity(s, slots.derivatives, 1, 1e-300) for s in shown])
    return tries.to(closeness.device)[closeness.argmax(0)]


def _logits_on_the_way(update: Update, knowledge: ServerKnowledge, slots: Slots, z: Tensor) -> list[Tensor]:
    """Logits that the loss was differentiated at: those of the start, and of the end if there were several steps.

    A bank that counts saw each example first at one step of the way, between them.
    """
    model = knowledge.model
    start = model.logits(model.params, z).detach()
    if one_step(update, knowledge):
        return [start.requires_grad_()]
    params = {k: v - update.values[k] if k in update.values else v for k, v in model.params.items()}
    end = model.logits(params, z).detach()
    if SEEN not in model.buffers:
        return [start.requires_grad_(), end.requires_grad_()]
    passed = ((slots.numbers + 0.5) / (slots.numbers[-1] + 1))[:, None].to(start)
    return [torch.lerp(start, end, passed).requires_grad_()]


def _by_rows(model: Model, logits: Tensor, label: int) -> Float[Tensor, "m rows"]:
    """The derivative of the loss by a sub-model's rows, if all examples had this label."""
    labels = torch.full((len(logits),), label, device=logits.device)
    with torch.enable_grad():
        (by_logits,) = torch.autograd.grad(model.loss_fn(logits, labels), logits)
    return by_logits.double() @ model.params[OUT].double().T


def _replayed(update: Update, knowledge: ServerKnowledge, slots: Slots, labels: Tensor | None) -> float | None:
    """The residual of the whole update; None where no client's training can be repeated with these candidates."""
    count = knowledge.num_examples
    if labels is None or knowledge.num_clients > 1 or (count is not None and count != len(slots.x)):
        return None
    z = slots.x.view(-1, *knowledge.model.input.encoded_shape)
    again = replay(update, knowledge, tuple(update.values), z, labels)
    return None if again is None else again.residual


def _mark(alone: bool, again: bool) -> Mark:
    return "duplicate" if again else "alone" if alone else "mixture"


def _notes(
    slots: Slots, alone: Tensor, again: Tensor, replayed: float | None, knowledge: ServerKnowledge
) -> tuple[str, ...]:
    notes = [f"{int((alone & ~again).sum())} of {len(slots.x)} sub-models saw one example by their rows' agreement."]
    if bool(again.any()):
        notes.append(f"{int(again.sum())} saw an example that an earlier one had seen.")
    if not bool(alone.all()):
        notes.append("The others saw several: local steps, clients or a batch beyond the last slot share them.")
    if replayed is not None:
        notes.append(f"Replayed, the candidates differ from the whole update by {replayed:.1e} (relative).")
    return tuple(notes)
