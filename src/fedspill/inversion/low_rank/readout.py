"""The examples behind the gradient of a network's first fully connected layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Mark, Reconstruction, Update
from fedspill.inversion.gradients import layer as layers
from fedspill.inversion.gradients.defended.completion import completion
from fedspill.inversion.gradients.firing import gated
from fedspill.inversion.gradients.mean import mean_gradient, one_step
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.low_rank.certificate import Verdicts, verdicts
from fedspill.inversion.low_rank.columns import Columns, Layer, layer
from fedspill.inversion.low_rank.demixing import demixed
from fedspill.inversion.low_rank.factors import factors
from fedspill.inversion.network.trace import Step, first_linear, probe_inputs, trace

PROBES = 8

Search = Callable[[Layer], Columns]


@dataclass(frozen=True)
class First:
    """The layer that reads the network's input: the module's name, its weight's and its bias's."""

    at: str
    names: layers.Layer


def input_layer(model: Model) -> Step:
    """The fully connected layer that reads the network's input.

    Raises:
        NotApplicable: another layer comes before it, so that it reads features.
    """
    try:
        return first_linear(trace(model), model.input)
    except NotApplicable as reason:
        raise NotApplicable(
            f"{reason}: a fully connected layer further on reads features, of which this attack makes no inputs"
        ) from reason


def first_layer(model: Model) -> First:
    """The fully connected layer with a bias and a ReLU that reads the network's input.

    Raises:
        NotApplicable: another layer comes before it, so that it reads features; or it has no bias, or no ReLU.
    """
    step = input_layer(model)
    weight, bias = step.parameter("weight"), step.parameter("bias")
    if weight is None or bias is None:
        raise NotApplicable(f"{step.describe()} has no bias of its own, by whose gradient examples get their scale")
    found = First(step.name, layers.Layer(weight, bias))
    if not gated(model, found.at, found.names, probe_inputs(model.input, PROBES, model.like)):
        raise NotApplicable(f"no ReLU follows {step.describe()}, so that no derivative of its outputs is 0")
    return found


def first_gradient(update: Update, knowledge: ServerKnowledge, first: First) -> Tensor:
    """[dW | db] of the first layer, (m, d + 1), float64: the mean gradient of one step.

    Raises:
        NotApplicable: the layer was not trained, or the update is of several local steps.
    """
    layers.sent(update, first.names.weight, "the first layer's weight")
    layers.sent(update, first.names.bias, "the first layer's bias")
    if not one_step(update, knowledge):
        raise NotApplicable(
            "examples are told apart by the rank of one gradient; the update holds several local steps, or a number"
            " unknown to the server"
        )
    mean = mean_gradient(update, knowledge, (first.names.weight, first.names.bias)).values
    return torch.cat([mean[first.names.weight], mean[first.names.bias][:, None]], 1)


def read_batch(update: Update, knowledge: ServerKnowledge, sparsity: float, search: Search) -> Reconstruction:
    """The examples, as many as the gradient's rank tells apart.

    Args:
        update: of one local step.
        knowledge: of the server.
        sparsity: share of the rows in which an example's derivative must vanish.
        search: finds the unknown matrix.

    Raises:
        NotApplicable: the network does not begin with a fully connected layer with a bias and a ReLU, what is needed
            was not sent, the rank does not stand out, or leaves too few rows.
    """
    first, model = first_layer(knowledge.model), knowledge.model
    gradient = first_gradient(update, knowledge, first)
    eps = torch.finfo(update.values[first.names.weight].dtype).eps
    told = completion(update, knowledge).of(first.names.weight)
    deviation = told.error if told is not None and math.isfinite(told.error) else 0.0
    found = factors(gradient, knowledge.num_examples, eps, deviation)
    weight, bias = model.params[first.names.weight].to(gradient), model.params[first.names.bias].to(gradient)
    at = layer(found, weight, bias, torch.finfo(model.like.dtype).eps, sparsity)
    if at.least > len(found.rows):
        raise NotApplicable(
            f"{found.rank} examples need {at.least} units that are off for each; {len(found.rows)} have a gradient"
        )
    columns = search(at)
    read = _reconstruction(at, columns, verdicts(at, columns, knowledge, first.names.bias), knowledge)
    known = knowledge.defence
    read = _uncertain(read) if known is not None and deviation and (known.survivors or known.cut) else read
    return demixed(read, update, knowledge)


COMPLETED = (
    "What the clients left out or cut of the first layer's gradient was completed by its rank. How far off that is"
    " shows in what was sent alone, so that no example is certified."
)


def _uncertain(read: Reconstruction) -> Reconstruction:
    """Of a gradient that was completed: nothing is certified."""
    marks: tuple[Mark, ...] = tuple("unsure" if m == "alone" else m for m in read.marks)
    confidence = None if read.confidence is None else read.confidence.clamp_max(0.5)
    return replace(read, converged=False, confidence=confidence, marks=marks, notes=(*read.notes, COMPLETED))


def _reconstruction(at: Layer, columns: Columns, said: Verdicts, knowledge: ServerKnowledge) -> Reconstruction:
    spec, like = knowledge.model.input, knowledge.model.like
    settled = columns.settled(at.least).tolist()
    marks: list[Mark] = [
        "alone" if v.certified else "unsure" if s else "mixture" for v, s in zip(said.each, settled, strict=True)
    ]
    labels = [v.label for v in said.each]
    z = columns.inputs[:, :-1].nan_to_num(0.0, 0.0, 0.0).view(-1, *spec.encoded_shape)
    sure = sum(v.certified for v in said.each)
    agrees = columns.agrees.tolist()
    return Reconstruction(
        inputs=spec.decode(z).to(like),
        labels=None if None in labels else torch.tensor(labels, device=like.device),
        label_method=None if None in labels else "derivative of each candidate",
        confidence=like.new_tensor([1.0 if v.certified else 0.5 * a for v, a in zip(said.each, agrees, strict=True)]),
        converged=sure == at.factors.rank and knowledge.num_examples in (None, sure),
        notes=(*_notes(at, sure, sum(settled), knowledge.num_examples), *_multiple(said, knowledge)),
        marks=tuple(marks),
    )


def _multiple(said: Verdicts, knowledge: ServerKnowledge) -> tuple[str, ...]:
    """Of mixtures none is told: their targets are no classes, by which the length would be judged."""
    known = knowledge.defence
    return () if known is not None and known.mixed else multiple_note(said.multiple)


def _notes(at: Layer, sure: int, settled: int, count: int | None) -> tuple[str, ...]:
    rank = at.factors.rank
    notes = [
        f"The first layer's gradient has rank {rank}; {settled} columns vanish as a ReLU's derivative does, {sure}"
        " examples are certified."
    ]
    if count is not None and rank < count:
        notes.append(f"{count - rank} of {count} examples send nothing of their own: copies, or no gradient at all.")
    return tuple(notes)
