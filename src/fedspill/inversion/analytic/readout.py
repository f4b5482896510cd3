"""Private inputs read off the gradient of a fully connected layer: one per row, or one mean per class."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from fedspill.core.errors import NotApplicable
from fedspill.core.inputs import InputSpec
from fedspill.core.knowledge import ServerKnowledge
from fedspill.core.types import Reconstruction, Update
from fedspill.inversion.analytic.candidates import ONE_EXAMPLE, Candidate, certain_below, in_range, several_examples
from fedspill.inversion.analytic.certificate import has_directions, replay
from fedspill.inversion.gradients.layer import Layer, layer_gradient
from fedspill.inversion.gradients.linear import class_means, rank_one_residual
from fedspill.inversion.gradients.losses import is_cross_entropy
from fedspill.inversion.gradients.mean import one_step
from fedspill.inversion.gradients.scale import multiple_note
from fedspill.inversion.labels.known import Labels, known_labels
from fedspill.inversion.labels.scale import head_multiple


def by_class(
    update: Update,
    knowledge: ServerKnowledge,
    layer: Layer,
    rng: torch.Generator,
) -> Reconstruction | None:
    """Mean inputs of a classification layer, one per class that is present; exact if the head is flat.

    Returns:
        `inputs` are the layer's inputs in float64, flat; None if labels cannot be had or no class is absent.
    """
    labels = known_labels(update, knowledge, rng, knowledge.num_examples)
    gradient = layer_gradient(update, knowledge, layer)
    if labels is None or not is_cross_entropy(knowledge.model):
        return None
    told = head_multiple(update, knowledge)
    factor = 1.0 if told is None or told.allows(1.0) else told.factor
    gradient = replace(gradient, weight=gradient.weight / factor, bias=gradient.bias / factor)
    counts = torch.bincount(labels.values, minlength=len(gradient.bias)).to(gradient.bias.device)
    try:
        means, residual = class_means(gradient.weight, gradient.bias, counts)
    except NotApplicable:
        return None
    number = counts[counts > 0]
    # Wrong counts give some class a mean probability below zero, since they all add up to one.
    plausible = bool((gradient.bias + counts / counts.sum() > -1e-6).all())
    exact = told is not None and residual < ONE_EXAMPLE and plausible and one_step(update, knowledge)
    alone = int((number == 1).sum())
    trust = max(0.0, 1.0 - residual) if exact else 0.5 * max(0.0, 1.0 - residual)
    return Reconstruction(
        inputs=means,
        labels=counts.nonzero()[:, 0],
        label_method=labels.method,
        confidence=(trust / number.double()).float(),
        converged=exact and alone > 0,
        notes=(
            f"{alone} classes hold one example; the others are read as the mean of their examples. Rows of"
            f" absent classes disagree by {residual:.1e}; below {ONE_EXAMPLE:g}, and for a single gradient,"
            " the formula is exact.",
            *multiple_note(factor),
        ),
    )


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
    x = gradient.input()
    residual = rank_one_residual(gradient.weight, gradient.bias, x)
    count = knowledge.num_examples
    if count == 1 or (count is None and residual < ONE_EXAMPLE):
        labels = known_labels(update, knowledge, rng, 1)
        return single_example(update, knowledge, (layer.weight, layer.bias), x, residual, labels)
    labels = known_labels(update, knowledge, rng, count)
    candidates = several_examples(update, knowledge, layer, gradient, None if labels is None else labels.values, peel)
    if not candidates:
        return _mixture(knowledge.model.input, x, knowledge.model.like)
    return _reconstruction(knowledge, candidates, count)


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
    free = knowledge.num_examples == 1 or has_directions(knowledge.model)
    targets = knowledge.labels if labels is None else labels.values  # targets that are no classes are replayed too
    replayed = None if targets is None else replay(update, knowledge, names, z, targets[:1], free=free)
    if replayed is None:
        notes.append("Not replayed, as the label or the protocol is unknown: the rows' agreement alone counts.")
    worst = residual if replayed is None else max(residual, replayed.residual)
    level = certain_below(update, knowledge, names)
    if worst >= level:
        notes.append(f"Not one example alone: rows disagree or a replay differs (relative by {worst:.1e}).")
    elif replayed is not None:
        notes += multiple_note(replayed.factor)
    return Reconstruction(
        inputs=spec.decode(z).to(like),
        labels=None if labels is None else labels.values[:1].to(like.device),
        label_method=None if labels is None else labels.method,
        confidence=like.new_tensor([max(0.0, 1.0 - worst)]),
        converged=worst < level and in_range(spec, x),
        notes=tuple(notes),
    )


def _mixture(spec: InputSpec, x: Tensor, like: Tensor) -> Reconstruction:
    return Reconstruction(
        inputs=spec.decode(x.view(1, *spec.encoded_shape)).to(like),
        confidence=like.new_zeros(1),
        notes=("No row shows a valid input of one example; this is a mixture of all examples.",),
    )


def _reconstruction(knowledge: ServerKnowledge, candidates: list[Candidate], count: int | None) -> Reconstruction:
    spec, like = knowledge.model.input, knowledge.model.like
    labels = [c.label for c in candidates if c.label is not None]
    sure, complete = sum(c.certified for c in candidates), len(labels) == len(candidates)
    return Reconstruction(
        inputs=spec.decode(torch.stack([c.z for c in candidates]).view(-1, *spec.encoded_shape)).to(like),
        labels=torch.tensor(labels, device=like.device) if complete else None,
        label_method="gradient of each candidate" if complete else None,
        confidence=like.new_tensor([c.confidence for c in candidates]),
        converged=sure > 0,
        notes=(
            f"{sure} of {count if count is not None else 'an unknown number of'} examples are confirmed by"
            " rows that agree and by the network itself; the others are rows that may mix examples.",
        ),
    )
