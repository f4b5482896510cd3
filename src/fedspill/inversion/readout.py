"""Reads the inputs of one biased linear layer, that sees the (flattened) network input, out of an update."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.model import Model
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.certificate import Explanation, explanation, range_violation, replay_residual, rounding
from fedspill.inversion.layer_gradient import Labels, Layer, LayerGradient, known_labels, layer_gradient
from fedspill.inversion.linear_leakage import RowGroup, layer_input, rank_one_residual
from fedspill.inversion.mean_gradient import one_step

ONE_EXAMPLE = 1e-3
"""Residual of the rank-one test, and of a replay, below which one example explains the layer."""
EXPLAINED = 1e-2
"""Relative error below which a candidate accounts for its rows on one gradient."""
IN_RANGE = 1e-2


@dataclass(frozen=True)
class Candidate:
    """One input that the layer's gradient shows.

    Attributes:
        certified: the update itself confirms it.
        label: of the certificate, if there is one.
        rows: in which it was seen.
    """

    z: Float[Tensor, " d"]
    confidence: float
    certified: bool
    rows: Int[Tensor, " rows"]
    label: int | None = None


def read_layer(
    update: Update, knowledge: ServerKnowledge, layer: Layer, rng: torch.Generator, *, peel: bool = False
) -> Reconstruction:
    """Reconstructs what a layer on the network's flattened input saw.

    One example (n = 1, or n unknown and all rows agree): least squares over all rows. Several: rows that are
    exclusive to one example, found by their agreement and confirmed by passing the candidate through the
    network; single rows whose ratio is a valid input fill up to n with low confidence.

    Args:
        update: gradient or delta.
        knowledge: of the server; labels and protocol serve the certificates only.
        layer: its input must be the flattened encoded input of the network.
        rng: for label inference.
        peel: take the share of every confirmed example out of the gradient and look again; rows that two
            examples shared become exclusive to the other. Not in the papers.

    Raises:
        NotApplicable: the layer was not trained, or its bias gradient is zero.
    """
    gradient = layer_gradient(update, knowledge, layer)
    x = layer_input(gradient.weight, gradient.bias)
    residual = rank_one_residual(gradient.weight, gradient.bias, x)
    count = knowledge.num_examples
    if count == 1 or (count is None and residual < ONE_EXAMPLE):
        labels = known_labels(update, knowledge, rng, 1)
        return single_example(update, knowledge, (layer.weight, layer.bias), x, residual, labels)
    labels = known_labels(update, knowledge, rng, count)
    found = _several(update, knowledge, layer, gradient, None if labels is None else labels.values, peel)
    if not found:
        return _mixture(knowledge.model.input, x, knowledge.model.like)
    return _reconstruction(knowledge, found, count)


def single_example(
    update: Update,
    knowledge: ServerKnowledge,
    names: tuple[str, ...],
    x: Float[Tensor, " d"],
    residual: float,
    labels: Labels | None,
) -> Reconstruction:
    """The reconstruction of one example, certified if the rows agree and a replay gives the same update.

    Args:
        update: gradient or delta.
        knowledge: of the server.
        names: the tensors that a replay must reproduce.
        x: the flattened encoded input.
        residual: the worst rank-one residual behind `x`.
        labels: the first is replayed; None leaves the replay out.
    """
    spec, like = knowledge.model.input, knowledge.model.like
    z = x.view(1, *spec.encoded_shape)
    notes = list[str]()
    replayed = None if labels is None else replay_residual(update, knowledge, names, z, labels.values[:1])
    if replayed is None:
        notes.append("Not replayed, as the label or the protocol is unknown: the rows' agreement alone counts.")
    worst = max(residual, replayed or 0.0)
    level = _level(update, knowledge, names)
    if worst >= level:
        notes.append(f"Not one example alone: rows disagree or a replay differs (relative by {worst:.1e}).")
    return Reconstruction(
        inputs=spec.decode(z).to(like),
        labels=None if labels is None else labels.values[:1].to(like.device),
        label_method=None if labels is None else labels.method,
        confidence=like.new_tensor([max(0.0, 1.0 - worst)]),
        converged=worst < level and float(range_violation(spec, z)) < IN_RANGE,
        notes=tuple(notes),
    )


def _several(
    update: Update,
    knowledge: ServerKnowledge,
    layer: Layer,
    gradient: LayerGradient,
    labels: Tensor | None,
    peel: bool,
) -> list[Candidate]:
    model, count = knowledge.model.to(knowledge.model.like.device, torch.float64), knowledge.num_examples
    check = Check(model, layer.bias, _labels_to_try(model, labels), 1.0 / (count or 1))
    if not one_step(update, knowledge):
        # Gradients drift along the path: single candidates prove nothing, only all of them together do.
        return _replayed(update, knowledge, layer, check, gradient)
    sure, left = list[Candidate](), gradient
    while True:
        fresh, left = _confirmed(check, left, sure, peel=peel)
        sure += fresh
        if not peel or not fresh or (count is not None and len(sure) >= count):
            return sure + _unsure(model.input, gradient, sure, count)


def _replayed(
    update: Update, knowledge: ServerKnowledge, layer: Layer, check: "Check", gradient: LayerGradient
) -> list[Candidate]:
    """Candidates, all confirmed if there are n of them and replaying them gives the update; else none is."""
    found = _unsure(check.model.input, gradient, [], knowledge.num_examples)
    if len(found) != knowledge.num_examples:
        return found
    labels = torch.tensor([check.told(gradient, c.z, c.rows).label for c in found])
    z = torch.stack([c.z for c in found]).view(-1, *check.model.input.encoded_shape)
    names = (layer.weight, layer.bias)
    residual = replay_residual(update, knowledge, names, z, labels)
    if residual is None or residual >= _level(update, knowledge, names):
        return found
    return [replace(c, confidence=1.0, certified=True, label=int(k)) for c, k in zip(found, labels, strict=True)]


def _level(update: Update, knowledge: ServerKnowledge, names: tuple[str, ...]) -> float:
    # A rough update cannot confirm more precisely than it is rounded; beyond a tenth it confirms nothing.
    return min(0.1, ONE_EXAMPLE + 4 * rounding(update, knowledge, names))


@dataclass(frozen=True)
class Check:
    """What confirms a candidate: the network in float64, labels to try, and one example's share of the mean."""

    model: Model
    bias: str
    labels: Tensor
    share: float

    def told(self, gradient: LayerGradient, x: Tensor, rows: Tensor) -> Explanation:
        """What the network says of a candidate."""
        z = x.view(self.model.input.encoded_shape)
        return explanation(self.model, self.bias, z, self.labels, gradient.bias, rows, self.share)

    def explained(self, gradient: LayerGradient, group: RowGroup) -> Explanation | None:
        """The explanation of a group of rows by the network, if there is one."""
        if len(group.rows) < 2 or not _valid(self.model.input, group.x):
            return None
        told = self.told(gradient, group.x, group.rows)
        return told if told.residual < EXPLAINED else None


def _confirmed(
    check: Check, gradient: LayerGradient, sure: list[Candidate], *, peel: bool
) -> tuple[list[Candidate], LayerGradient]:
    """New candidates; with `peel` the first one only, since the other groups still hold its share."""
    fresh = list[Candidate]()
    for group in gradient.groups():
        if _known(group.x, [*sure, *fresh]):
            continue
        told = check.explained(gradient, group)
        if told is not None:
            fresh.append(Candidate(group.x, 1.0, True, group.rows, told.label))
            if peel:
                return fresh, gradient.without(group.x, told.bias_grad)
    return fresh, gradient


def _labels_to_try(model: Model, labels: Tensor | None) -> Tensor:
    if labels is not None:
        return labels.unique()
    z = model.like.new_zeros(1, *model.input.encoded_shape)
    return torch.arange(model.logits(model.params, z).shape[1])


def _unsure(spec: InputSpec, gradient: LayerGradient, sure: list[Candidate], count: int | None) -> list[Candidate]:
    room = max(0, (count or len(gradient.bias)) - len(sure))
    found = list[Candidate]()
    for group in gradient.groups():
        if len(found) < room and _valid(spec, group.x) and not _known(group.x, [*sure, *found]):
            found.append(Candidate(group.x, 0.5 if len(group.rows) > 1 else 0.1, False, group.rows))
    return found


def _valid(spec: InputSpec, x: Tensor) -> bool:
    return float(range_violation(spec, x.view(1, *spec.encoded_shape))) < IN_RANGE


def _known(x: Tensor, found: list[Candidate]) -> bool:
    return any(float((x - c.z).norm()) < 1e-2 * float(c.z.norm()) for c in found)


def _mixture(spec: InputSpec, x: Tensor, like: Tensor) -> Reconstruction:
    return Reconstruction(
        inputs=spec.decode(x.view(1, *spec.encoded_shape)).to(like),
        confidence=like.new_zeros(1),
        notes=("No row shows a valid input of one example; this is a mixture of all examples.",),
    )


def _reconstruction(knowledge: ServerKnowledge, found: list[Candidate], count: int | None) -> Reconstruction:
    spec, like = knowledge.model.input, knowledge.model.like
    labels = [c.label for c in found if c.label is not None]
    sure, complete = sum(c.certified for c in found), len(labels) == len(found)
    return Reconstruction(
        inputs=spec.decode(torch.stack([c.z for c in found]).view(-1, *spec.encoded_shape)).to(like),
        labels=torch.tensor(labels, device=like.device) if complete else None,
        label_method="gradient of each candidate" if complete else None,
        confidence=like.new_tensor([c.confidence for c in found]),
        converged=sure > 0,
        notes=(
            f"{sure} of {count if count is not None else 'an unknown number of'} examples are confirmed by"
            " rows that agree and by the network itself; the others are rows that may mix examples.",
        ),
    )
